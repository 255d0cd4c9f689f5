"""What the registry does inside Redis, where nothing comes between a look and a write.

Times are Redis' own, so that no two workers' clocks are compared.
"""

from __future__ import annotations

from aperture.bus.bus import Script

__all__ = [
    "APPEND",
    "CLAIM",
    "JOURNAL_ADD",
    "LIVING",
    "OWNER",
    "RELEASE",
    "RENEW_CLAIMS",
    "RENEW_LEASE",
    "STATE_BEGIN",
    "STATE_FORGET",
    "STATE_LOAD",
    "STATE_SIZE",
    "STATE_SNAPSHOT",
    "STATE_TOUCH",
]

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Else Lua writes milliseconds as 1.7e+12, which no command of Redis takes for a whole number.
local function whole(number) return string.format('%.0f', number) end
"""

_OWNED = """
-- How long a claim stands that is not renewed: a day. What frees a session is its release, or the end of its owner's
-- lease, which is renewed also while app code keeps the owner's loop, as the claims are not. This sweeps up behind the
-- dead.
local owned_ms = 24 * 3600 * 1000
"""

_TAKEN = """
-- Whether a session was claimed by another worker since, or given up. Epochs only grow: a lower one is of the past, and
-- in a Redis that was restarted with what it had saved some time ago.
local function taken(held, owner, epoch)
    if not held[1] or held[1] == owner and held[2] == epoch then return false end
    return (tonumber(held[2] or '') or 0) >= tonumber(epoch)
end
"""

_STORED = (
    _TAKEN
    + """
local function whole(number) return string.format('%.0f', number) end

-- What is there may be of any type, or of any content: nothing here fails for it. A list of fields, all false if none.
local function stored(key, ...)
    local found = redis.pcall('HMGET', key, ...)
    return found.err and {} or found
end

-- Whether the session is another's. When Redis does not know, having been restarted empty or because the session was
-- given up long ago, what is stored at a higher epoch shows that another worker has owned it since.
local function stranger()
    local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
    if taken(held, ARGV[1], ARGV[2]) then return true end
    if held[1] == ARGV[1] then return false end
    local epoch = tonumber(stored(KEYS[2], 'epoch')[1] or '')
    return epoch ~= nil and epoch > tonumber(ARGV[2])
end

local function expire(milliseconds)
    redis.call('PEXPIRE', KEYS[2], milliseconds)
    redis.call('PEXPIRE', KEYS[3], milliseconds)
end
"""
)

_BELIEVE = """
-- A worker that asks, and has not been heard for most of a lease: Redis was paused or cut off, and there may have been
-- no heartbeats at all. Those alive when this one was last heard count as alive until all have had the time to connect
-- again; else the first request that was waiting for Redis would take a session from an owner that never stopped.
local function believe(workers, me, lease, grace)
    local ends = tonumber(redis.call('ZSCORE', workers, me) or '')
    if not ends or ends - now > lease / 3 then return end
    for _, worker in ipairs(redis.call('ZRANGEBYSCORE', workers, whole(ends - lease), whole(now + grace))) do
        redis.call('ZADD', workers, whole(now + grace), worker)
    end
end
"""

_RETURNING = """
-- Whether Redis was emptied, and so short a while ago that living workers may not have put back yet what is missing.
local function returning(born_key, seasoned_key, first_born, grace)
    local born = redis.call('GET', born_key)
    local emptied = first_born ~= '' and first_born ~= born or redis.call('EXISTS', seasoned_key) == 1
    return emptied and tonumber(born or now) + grace > now
end
"""

CLAIM = Script(
    _NOW
    + _OWNED
    + _BELIEVE
    + """
-- KEYS session stream workers epoch born seasoned
-- ARGV me lease_ms retention_ms fresh grace_ms first_born
-- -> {'owned', owner, epoch} or {'wait', milliseconds}
believe(KEYS[3], ARGV[1], ARGV[2], ARGV[5])
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
local owner, old, ends = held[1], tonumber(held[2] or '0'), nil
-- Mine stays as it is, with its epoch: the answer to an earlier attempt may have been lost.
if owner and owner ~= '' then
    ends = redis.call('ZSCORE', KEYS[3], owner)
    if owner == ARGV[1] or (ends and tonumber(ends) > now) then
        return {'owned', owner, whole(old)}
    end
end
redis.call('SET', KEYS[5], whole(now), 'NX', 'PX', ARGV[3])
local born = redis.call('GET', KEYS[5])
-- A worker that knows of another birth has met this Redis before it was emptied: so there are owners to wait for.
if ARGV[6] ~= '' and ARGV[6] ~= born then
    redis.call('SET', KEYS[6], born, 'PX', ARGV[3])
end
-- A patch puts its session's claim back before the heartbeat puts back the lease: until then such an owner may live as
-- well as one whose claim is not there yet.
if (not owner or owner ~= '' and not ends) and ARGV[4] == '0' then
    local left = tonumber(born) + ARGV[5] - now
    if left > 0 and redis.call('EXISTS', KEYS[6]) == 1 then
        return {'wait', left}
    end
end
-- One more than the highest given out; and no less than the clock, so that epochs grow also when Redis was restarted
-- empty and knows of none.
local epoch = math.max(old, tonumber(redis.call('GET', KEYS[4]) or '0')) + 1
epoch = math.max(epoch, now)
redis.call('SET', KEYS[4], whole(epoch), 'PX', ARGV[3])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', whole(epoch))
redis.call('PEXPIRE', KEYS[1], owned_ms)
-- The old owner's patches: a rebuilt session counts from its own beginning.
redis.call('DEL', KEYS[2])
-- A claim without a lease would be free to take: this worker's heartbeat may still be on its way.
redis.call('ZADD', KEYS[3], whole(now + ARGV[2]), ARGV[1])
return {'owned', ARGV[1], whole(epoch)}
"""
)

RELEASE = Script(
    """
-- KEYS (session stream)...
-- ARGV me retention_ms epoch...
for i = 1, #KEYS, 2 do
    local held = redis.call('HMGET', KEYS[i], 'owner', 'epoch')
    if held[1] == ARGV[1] and held[2] == ARGV[2 + (i + 1) / 2] then
        -- Emptied and not deleted: a worker that was frozen, and believes that the session is its own, is refused for
        -- as long as this stands.
        redis.call('HSET', KEYS[i], 'owner', '')
        redis.call('PEXPIRE', KEYS[i], ARGV[2])
        redis.call('DEL', KEYS[i + 1])
    end
end
return 1
"""
)

RENEW_LEASE = Script(
    _NOW
    + _BELIEVE
    + """
-- KEYS workers born seasoned epoch
-- ARGV me lease_ms retention_ms first_born grace_ms
-- -> the millisecond in which this Redis was born
-- First, because it needs no memory and only the first write of a script is refused for want of it: a Redis that is
-- full must not cost any worker its lease.
redis.call('PEXPIRE', KEYS[1], ARGV[3])
believe(KEYS[1], ARGV[1], ARGV[2], ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now - ARGV[3]))
redis.call('ZADD', KEYS[1], whole(now + ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('SET', KEYS[2], whole(now), 'NX', 'PX', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[4], ARGV[3])
local born = redis.call('GET', KEYS[2])
if ARGV[4] ~= '' and ARGV[4] ~= born then
    redis.call('SET', KEYS[3], born, 'PX', ARGV[3])
end
return born
"""
)

RENEW_CLAIMS = Script(
    _OWNED
    + _TAKEN
    + """
-- KEYS epoch (session stream)...
-- ARGV me retention_ms epoch...
-- -> the positions of the sessions that are lost
local lost, highest = {}, 0
for i = 2, #KEYS, 2 do
    local mine = ARGV[2 + i / 2]
    local held = redis.pcall('HMGET', KEYS[i], 'owner', 'epoch')
    -- Another program's, of another type: as if forgotten, or this one key would keep all others from being renewed.
    if held.err then
        redis.call('UNLINK', KEYS[i])
        held = {}
    end
    if taken(held, ARGV[1], mine) then
        lost[#lost + 1] = i / 2 - 1
    else
        -- Forgotten by a Redis that was emptied or set back: put back.
        if held[2] ~= mine then
            redis.call('HSET', KEYS[i], 'owner', ARGV[1], 'epoch', mine)
            if held[1] then redis.call('DEL', KEYS[i + 1]) end
            highest = math.max(highest, tonumber(mine))
        end
        redis.call('PEXPIRE', KEYS[i], owned_ms)
    end
end
-- Else the next claim could get an epoch that is lower than one of these.
if highest > tonumber(redis.call('GET', KEYS[1]) or '0') then
    redis.call('SET', KEYS[1], string.format('%.0f', highest), 'PX', ARGV[2])
end
return lost
"""
)

OWNER = Script(
    _NOW
    + _RETURNING
    + """
-- KEYS session workers born seasoned
-- ARGV me lease_ms grace_ms first_born
-- -> {owner, epoch}, nothing, or {'unknown'} while the claim or the lease may yet be put back
-- Writes nothing: a Redis that is full still answers.
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if held[1] == '' then return {} end
local ends = held[1] and tonumber(redis.call('ZSCORE', KEYS[2], held[1]) or '')
if ends then
    if ends > now then return held end
    -- As in believe: where no heartbeat arrived, a claim would not take this from its owner either.
    local mine = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '')
    local unheard = mine and mine - now <= ARGV[2] / 3 and tonumber(ARGV[3]) > 0
    return unheard and ends >= mine - ARGV[2] and {'unknown'} or {}
end
return returning(KEYS[3], KEYS[4], ARGV[4], ARGV[3]) and {'unknown'} or {}
"""
)

LIVING = Script(
    _NOW
    + _RETURNING
    + """
-- KEYS workers born seasoned
-- ARGV grace_ms first_born owner...
-- -> those of them whose lease has not ended, or may yet be put back
local unknown = returning(KEYS[2], KEYS[3], ARGV[2], ARGV[1])
local living = {}
for i = 3, #ARGV do
    local ends = redis.call('ZSCORE', KEYS[1], ARGV[i])
    if ends and tonumber(ends) > now or not ends and unknown then living[#living + 1] = ARGV[i] end
end
return living
"""
)

APPEND = Script(
    _OWNED
    + _TAKEN
    + """
-- KEYS session stream
-- ARGV me epoch channel first last part parts payload published floor stream_ms
-- -> the number of subscribers reached, or -1 for a stranger
-- A payload in parts comes in as many calls; nothing is published before the last of them.
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if taken(held, ARGV[1], ARGV[2]) then return -1 end
if held[2] ~= ARGV[2] then
    -- Redis was restarted empty or set back, and no worker has claimed the session since.
    redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', ARGV[2])
    redis.call('PEXPIRE', KEYS[1], owned_ms)
    if held[1] then redis.call('DEL', KEYS[2]) end
end
-- The last sequence number is the entry's id, so that one that is there already, because the answer to the first
-- attempt was lost, cannot be entered twice; it is published again, and its readers know it by its number.
local id = ARGV[5] .. '-' .. ARGV[6]
local added = redis.pcall(
    'XADD', KEYS[2], 'MINID', '~', ARGV[10], id, 'first', ARGV[4], 'last', ARGV[5], 'parts', ARGV[7], 'payload', ARGV[8]
)
redis.call('PEXPIRE', KEYS[2], ARGV[11])
if ARGV[7] ~= '1' then
    -- A Redis that is full still passes on what is published; but what is read from the stream has to be there.
    if type(added) == 'table' and added.err and string.find(tostring(added.err), 'OOM') then return added end
    if tonumber(ARGV[6]) + 1 < tonumber(ARGV[7]) then return 0 end
end
return redis.call('PUBLISH', ARGV[3], ARGV[9])
"""
)

STATE_BEGIN = Script(
    _STORED
    + """
-- KEYS session stored journal
-- ARGV me epoch lifetime_ms (field value)...
-- -> 0, or -1 for a stranger
if stranger() then return -1 end
if type(redis.pcall('HLEN', KEYS[2])) ~= 'number' then redis.call('UNLINK', KEYS[2]) end
-- Before anything is written: only the first write of a script asks whether there is memory for it.
local outcome = redis.pcall('HSET', KEYS[2], unpack(ARGV, 4))
if type(outcome) ~= 'number' then
    redis.call('UNLINK', KEYS[2], KEYS[3])
    return outcome
end
redis.call('UNLINK', KEYS[3])
expire(ARGV[3])
return 0
"""
)

JOURNAL_ADD = Script(
    _STORED
    + """
-- KEYS session stored journal
-- ARGV me epoch lifetime_ms first entry...
-- -> the journal's size in bytes, or -1 for a stranger, -2 where it cannot be continued
if stranger() then return -1 end
local found = stored(KEYS[2], 'epoch', 'sequence', 'last', 'bytes')
local base, last, bytes = tonumber(found[2] or ''), tonumber(found[3] or ''), tonumber(found[4] or '')
local first = tonumber(ARGV[4])
if found[1] ~= ARGV[2] or not (base and last and bytes) or first > last + 1 then return -2 end
-- Redis may have evicted one key and not the other.
if redis.pcall('LLEN', KEYS[3]) ~= last - base then return -2 end
-- Those that are there already, because the answer to the first attempt was lost, are passed over.
local i = 5 + last + 1 - first
-- In portions: Lua's unpack puts all of them on its stack, which is bounded.
while i <= #ARGV do
    local till = math.min(i + 99, #ARGV)
    redis.call('RPUSH', KEYS[3], unpack(ARGV, i, till))
    for j = i, till do bytes = bytes + #ARGV[j] end
    last = last + till + 1 - i
    i = till + 1
end
redis.call('HSET', KEYS[2], 'last', whole(last), 'bytes', whole(bytes))
expire(ARGV[3])
return bytes
"""
)

STATE_SNAPSHOT = Script(
    _STORED
    + """
-- KEYS session stored journal
-- ARGV me epoch lifetime_ms sequence snapshot sum
-- -> the journal's size in bytes, or -1 for a stranger, -2 where it cannot be continued
if stranger() then return -1 end
local found = stored(KEYS[2], 'epoch', 'sequence', 'last', 'bytes')
local base, last, bytes = tonumber(found[2] or ''), tonumber(found[3] or ''), tonumber(found[4] or '')
local sequence = tonumber(ARGV[4])
if found[1] ~= ARGV[2] or not (base and last and bytes) then return -2 end
if redis.pcall('LLEN', KEYS[3]) ~= last - base then return -2 end
if sequence < base then return bytes end  -- a later one has overtaken it
local rest = {}
if sequence < last then rest = redis.call('LRANGE', KEYS[3], whole(sequence - base), -1) end
bytes = 0
for i = 1, #rest do bytes = bytes + #rest[i] end
redis.call(
    'HSET', KEYS[2], 'sequence', whole(sequence), 'last', whole(math.max(sequence, last)), 'bytes', whole(bytes),
    'snapshot', ARGV[5], 'snapshot_sum', ARGV[6]
)
-- After the snapshot is written: a Redis that is full refuses that, and the journal must then be whole.
if #rest == 0 then
    redis.call('UNLINK', KEYS[3])
else
    redis.call('LTRIM', KEYS[3], whole(sequence - base), -1)
end
expire(ARGV[3])
return bytes
"""
)

STATE_FORGET = Script(
    _STORED
    + """
-- KEYS session stored journal
-- ARGV me epoch
-- -> 0, or -1 for a stranger
if stranger() then return -1 end
redis.call('UNLINK', KEYS[2], KEYS[3])
return 0
"""
)

STATE_LOAD = Script(
    _STORED
    + """
-- KEYS stored journal
-- ARGV field...
-- -> {values of the fields, journal}, or nothing
if redis.call('EXISTS', KEYS[1], KEYS[2]) == 0 then return {} end
-- Both keys in one step: between two, the owner could replace the journal by a snapshot.
local journal = redis.pcall('LRANGE', KEYS[2], 0, -1)
return {stored(KEYS[1], unpack(ARGV)), journal.err and {} or journal}
"""
)

STATE_TOUCH = Script(
    _STORED
    + """
-- KEYS (session stored journal)...
-- ARGV me lifetime_ms
-- -> the positions of those that are mine and of which nothing is stored that could be continued
local lacking = {}
for i = 1, #KEYS, 3 do
    local owner = stored(KEYS[i], 'owner')[1]
    -- Without an owner it is this worker's, too: its heartbeat has not put the claim back yet.
    if not owner or owner == ARGV[1] then
        local found = stored(KEYS[i + 1], 'sequence', 'last')
        local base, last = tonumber(found[1] or ''), tonumber(found[2] or '')
        if base and last and redis.pcall('LLEN', KEYS[i + 2]) == last - base then
            redis.call('PEXPIRE', KEYS[i + 1], ARGV[2])
            redis.call('PEXPIRE', KEYS[i + 2], ARGV[2])
        else
            lacking[#lacking + 1] = (i - 1) / 3
        end
    end
end
return lacking
"""
)

STATE_SIZE = Script(
    _STORED
    + """
-- KEYS stored journal
-- -> bytes of memory; of contents alone where the server cannot tell, as the stand-in
local used = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', '0') or 0
if type(used) == 'table' then
    local found = stored(KEYS[1], 'origin', 'snapshot', 'bytes')
    return #(found[1] or '') + #(found[2] or '') + (tonumber(found[3] or '') or 0)
end
return used + (redis.call('MEMORY', 'USAGE', KEYS[2], 'SAMPLES', '0') or 0)
"""
)
