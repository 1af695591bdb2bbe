-- wrk: POSTs of ConfigMaps of 700 bytes with fresh names.
local n, id = 0, 0
function setup(thread) id = id + 1; thread:set("id", id) end
function init() padding = string.rep("x", 480); run = os.getenv("BENCH_RUN") or "r" end
function request()
  n = n + 1
  local body = string.format('{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"%s-%d-%d"},"data":{"k":"%s"}}', run, id, n, padding)
  return wrk.format("POST", "/api/v1/namespaces/bench/configmaps", {["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN")}, body)
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration, e.status + e.connect + e.read + e.write + e.timeout, latency:percentile(99), latency:percentile(50)))
end
