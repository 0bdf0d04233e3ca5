"""Socket activation: listens on 127.0.0.1:$PORT and starts the command with that socket, as systemd would, which also holds
it for as long as the directory given first is there.   activate.py DIR COMMAND…"""
import os, socket, sys, time

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(os.environ["PORT"])))
listener.listen(128)
server = os.getpid()
if os.fork() == 0:
    os.setsid()
    for fd in (0, 1, 2):
        os.close(fd)
    while os.path.isdir(sys.argv[1]):
        time.sleep(0.02)
    os._exit(0)
os.dup2(listener.fileno(), 3)
os.environ.update(LISTEN_PID=str(server), LISTEN_FDS="1")
os.execvp(sys.argv[2], sys.argv[2:])
