"""An auth module that everybody passes, whose page says what has reached it: how much, from where, over what."""

from tornado.web import RequestHandler

login_url = "/upload"


def get_user(request_handler):
    return "anybody"


class LoginHandler(RequestHandler):
    def get(self):
        self.write(f"{self.request.protocol} {self.request.remote_ip} {self.request.host}")

    def post(self):
        self.write(str(len(self.request.body)))
