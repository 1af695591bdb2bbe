-- wrk: GETs of one ConfigMap.
function request() return wrk.format("GET", os.getenv("BENCH_PATH"), {["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN"), ["Accept"] = "application/json"}) end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration, e.status + e.connect + e.read + e.write + e.timeout, latency:percentile(99), latency:percentile(50)))
end
