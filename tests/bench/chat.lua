-- wrk: chat completions, not streamed.
local body = '{"model":"' .. (os.getenv("BENCH_MODEL") or "fake") .. '","messages":[{"role":"user","content":"' .. string.rep("hello ", 160) .. '"}],"max_tokens":4}'
function request() return wrk.format("POST", os.getenv("BENCH_PATH"), {["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN")}, body) end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration, e.status + e.connect + e.read + e.write + e.timeout, latency:percentile(99), latency:percentile(50)))
end
