-- wrk: ConfigMaps of about 700 bytes, by BENCH_WORK: create with fresh names, or get, update, apply over the BENCH_OBJECTS that exist. BENCH_RUN makes names and values fresh.
local n, id = 0, 0
local work, run, objects = os.getenv("BENCH_WORK"), os.getenv("BENCH_RUN") or "r", tonumber(os.getenv("BENCH_OBJECTS") or "1")
local base = "/api/v1/namespaces/bench/configmaps"
local padding = string.rep("x", 480)
local auth = "Bearer " .. os.getenv("BENCH_TOKEN")
local json = {["Content-Type"] = "application/json", ["Authorization"] = auth}
local apply = {["Content-Type"] = "application/apply-patch+yaml", ["Authorization"] = auth}

local function body(name, value)
  return string.format('{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"%s"},"data":{"k":"%s","v":"%s"}}', name, padding, value)
end

function setup(thread) id = id + 1; thread:set("id", id) end
function request()
  n = n + 1
  local name = "o" .. (n % objects)
  if work == "create" then return wrk.format("POST", base, json, body(run .. "-" .. id .. "-" .. n, "0")) end
  if work == "get" then return wrk.format("GET", base .. "/" .. name, {["Authorization"] = auth, ["Accept"] = "application/json"}) end
  if work == "update" then return wrk.format("PUT", base .. "/" .. name, json, body(name, run .. n)) end
  return wrk.format("PATCH", base .. "/" .. name .. "?fieldManager=bench&force=true", apply, body(name, run .. n))
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration, e.status + e.connect + e.read + e.write + e.timeout, latency:percentile(99), latency:percentile(50)))
end
