"""The new master of an upgrade, as far as its words go (server/handover.h): says that it is ready, waits for "take over",
and then does what its name says: "dies", or "hangs". Started in chowk's place."""
import os, socket, struct, sys, time

MASTERS = 1000
channel = socket.socket(fileno=int(os.environ["CHOWK_HANDOVER"]))


def say(text):
    channel.send(struct.pack("=II", MASTERS, 1) + text.encode())


def hear(until):
    while True:
        message = channel.recv(8192)
        if not message:
            sys.exit(2)
        if message[8:].decode() == until:
            return


channel.setblocking(True)
hear("end")
say("ready")
hear("take over")
if sys.argv[1] == "hangs":
    time.sleep(60)
