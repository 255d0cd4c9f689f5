"""The path of a patch, from the message that brings it to the frames that every viewer is sent."""
