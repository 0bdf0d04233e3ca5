-- Takes every lock of one shared segment of a running server, and dies with them or stops: what a worker leaves behind
-- that is killed, or stands still, at the worst moment.
--
--   luajit tests/fault/holder.lua PID SEGMENT kill|stop     PID has the segment open: the master; SEGMENT: chowk-limit
--
-- Prints its own pid and the number of locks before it raises the signal; when it is continued, it lets go of them.
-- For segments whose locks are aligned as base/shm.h aligns bodies, and best on a server that has just started: a lock
-- is known by how it looks.
local ffi = require "ffi"
ffi.cdef [[
int open(const char *path, int flags);
long lseek(int fd, long offset, int whence);
void *mmap(void *at, size_t len, int prot, int flags, int fd, long offset);
int pthread_mutex_trylock(void *mutex);
int pthread_mutex_unlock(void *mutex);
int raise(int signal);
int getpid(void);
]]

local O_RDWR, SEEK_END, PROT_READ_WRITE, MAP_SHARED, SIGKILL, SIGSTOP = 2, 2, 3, 1, 9, 19
local ALIGN, EOWNERDEAD = 64, 130
local ROBUST_AND_SHARED = 16 + 128 -- what the fifth word of glibc's mutex says of ours

local pid, segment, how = unpack(arg)

local function map()
  local pipe = io.popen("ls -l /proc/" .. pid .. "/fd")
  local fd = pipe:read("*a"):match("(%d+) %-> /memfd:" .. segment:gsub("%-", "%%-") .. " ")
  pipe:close()
  local mine = ffi.C.open("/proc/" .. pid .. "/fd/" .. assert(fd, "it has no segment " .. segment), O_RDWR)
  local len = tonumber(ffi.C.lseek(mine, 0, SEEK_END))
  return ffi.cast("char *", ffi.C.mmap(nil, len, PROT_READ_WRITE, MAP_SHARED, mine, 0)), len
end

local function take(at)
  local words = ffi.cast("int *", at)
  if words[4] ~= ROBUST_AND_SHARED or words[5] ~= 0 then return false end
  local code = ffi.C.pthread_mutex_trylock(at)
  return code == 0 or code == EOWNERDEAD
end

local bytes, len = map()
local taken = {}
for at = ALIGN, len - ALIGN, ALIGN do
  if take(bytes + at) then taken[#taken + 1] = bytes + at end
end
print(ffi.C.getpid(), #taken)
io.stdout:flush()
io.stdout:close()
ffi.C.raise(how == "kill" and SIGKILL or SIGSTOP)
for _, lock in ipairs(taken) do ffi.C.pthread_mutex_unlock(lock) end
