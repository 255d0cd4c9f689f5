"""An auth module: a login page that takes any name, and a logout page. Not an app."""

from tornado.web import RequestHandler

login_url = "/login"
logout_url = "/logout"


def get_user(request_handler):
    return request_handler.get_cookie("user")


class LoginHandler(RequestHandler):
    def get(self):
        self.write(f"<form method=post>{self.xsrf_form_html()}<input name=user></form>")

    def post(self):
        self.set_cookie("user", self.get_argument("user"))
        self.redirect(self.get_argument("next", "/"))


class LogoutHandler(RequestHandler):
    def get(self):
        self.clear_cookie("user")
        self.redirect("/login")
