std = "luajit"
max_line_length = 120
globals = {}
read_globals = { "try" }
files["spec"] = { std = "luajit+busted" }
files["tests/soak"] = { std = "luajit+busted" }
files["conf"] = { read_globals = { "env", "file" } }
files["examples/*/conf"] = { read_globals = { "env", "file" } }
files["tests/bench/chowk/conf"] = { read_globals = { "env", "file" } }
exclude_files = { "build", "var", "tests/bench/node_modules" }
files["tests/bench/wrk"] = { read_globals = { "wrk" }, globals = { "request", "init", "done", "each", "n_requests" } }
