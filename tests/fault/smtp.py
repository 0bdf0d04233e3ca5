"""A mail server for specs, on aiosmtpd:  /usr/bin/python3 tests/fault/smtp.py MESSAGES [option …]

Prints its port; appends what it takes to the file MESSAGES, one JSON object a line {from, to, data, tls, user,
connection}; ends with its standard input. Options: tls=starttls|implicit|none  cert=FILE  key=FILE  auth=user:password

What it does is in the recipient: refused@ 550 · later@ 451 · slow@ no answer · spam@ 554 after the message ·
drop@ takes the message and closes without a word · once@ takes it, then closes the connection.
"""

import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

messages = sys.argv[1]
options = dict(arg.split("=", 1) for arg in sys.argv[2:])
connections = 0


class Handler:
    def __init__(self):
        global connections
        connections += 1
        self.number = connections

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        name = address.split("@")[0]
        if name == "slow":
            await asyncio.sleep(60)
        if name == "refused":
            return "550 5.1.1 no such user"
        if name == "later":
            return "451 4.3.0 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        names = [address.split("@")[0] for address in envelope.rcpt_tos]
        if "spam" in names:
            return "554 5.7.1 this is spam"
        with open(messages, "a") as file:
            login = session.auth_data.login.decode() if session.auth_data else None
            record = {
                "from": envelope.mail_from,
                "to": envelope.rcpt_tos,
                "data": envelope.content.decode("latin-1"),
                "tls": session.ssl is not None or options.get("tls") == "implicit",
                "user": login,
                "connection": self.number,
            }
            file.write(json.dumps(record) + "\n")
        if "drop" in names:
            server.transport.abort()
        if "once" in names:
            asyncio.get_running_loop().call_later(0.02, server.transport.close)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, auth_data):
    user, password = options["auth"].split(":")
    good = auth_data.login == user.encode() and auth_data.password == password.encode()
    return AuthResult(success=good, handled=good, auth_data=auth_data)


async def main():
    tls = options.get("tls", "none")
    context = None
    if tls != "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options["cert"], options["key"])

    def connect():
        more = {}
        if tls == "starttls":
            more = {"tls_context": context, "require_starttls": True}
        if "auth" in options:
            more.update(authenticator=authenticate, auth_required=True, auth_require_tls=tls == "starttls")
        return SMTP(Handler(), hostname="mx.test", **more)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(connect, "127.0.0.1", 0, ssl=context if tls == "implicit" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main())
