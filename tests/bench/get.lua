-- wrk: GETs of one ConfigMap.
function request() return wrk.format("GET", os.getenv("BENCH_PATH"), {["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN"), ["Accept"] = "application/json"}) end
function done(summary, latency) io.write(string.format("RESULT %d %d %d %d\n", summary.requests, summary.duration, summary.errors.status, latency:percentile(99))) end
