#!/usr/bin/env bash
# The yardstick of tests/bench/clusters.py and nodes.py: the same programs brought up by a plain script, as one would by hand. Prints JSON with seconds since its start.
# usage: cluster.sh PROGRAMS-DIR ADDRESS DIRECTORY [POD.json]    (ends when stdin is closed, and takes everything with it)
# With a Pod called web in default that serves "here" on port 8080 it goes on with one real node (node.sh), as root: all of it in namespaces of its own then, where ADDRESS is the first
# of a /24 on a bridge. What of it is killed takes the rest along; control groups of a script that was killed itself are removed by the next one.
set -euo pipefail
began=${SCRIPT_BEGAN:-$(date +%s.%N)}
since() { echo "$(date +%s.%N) - $began" | bc; }
bin=$1 ip=$2 d=$3 pod=${4:-} here=$(cd "$(dirname "$0")" && pwd)

# ---- with a node: namespaces, and control groups, which no namespace takes along ----
trees() { if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo /sys/fs/cgroup; else find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -type d; fi; }
put() { [ ! -e "$1" ] || echo "$2" >"$1" 2>/dev/null || true; } # where there is no such file it is another controller's tree
cgroups_make() { # of the size of a node when a NodePool says nothing: one processor, 2 GiB
    local t c
    for t in $(trees); do
        [ "${t##*/}" != unified ] || continue
        c=$t/$1
        mkdir "$c"
        if [ -e "$t/cgroup.controllers" ]; then
            put "$t/cgroup.subtree_control" "+cpu +cpuset +memory +pids +io"; put "$c/cgroup.subtree_control" "+cpu +cpuset +memory +pids +io"
            put "$c/memory.max" $((2 << 30)); put "$c/cpu.max" "100000 100000"
            mkdir "$c/system"
        else
            [ ! -e "$c/cpuset.cpus" ] || { cat "$t/cpuset.cpus" >"$c/cpuset.cpus"; cat "$t/cpuset.mems" >"$c/cpuset.mems"; }
            put "$c/memory.limit_in_bytes" $((2 << 30)); put "$c/cpu.cfs_quota_us" 100000
        fi
    done
}
cgroups_remove() { # of scripts that are no more, and of this one
    local c pid try
    for c in $(trees | sed 's:$:/seki-script-*:'); do
        pid=${c##*-}
        [ -d "$c" ] && { [ "$pid" = $$ ] || [ ! -d "/proc/$pid" ]; } || continue
        for try in {1..200}; do # the last of its processes may be on its way out
            find "$c" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [ -d "$c" ] || break
            sleep 0.025
        done
    done
}
if [ -n "$pod" ] && [ -z "${SCRIPT_BEGAN:-}" ]; then
    unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
    cgroups_remove
    cgroups_make seki-script-$$
    trap cgroups_remove EXIT
    trap 'kill -9 $inner' TERM INT HUP
    SCRIPT_BEGAN=$began SCRIPT_CGROUP=seki-script-$$ setpriv --pdeathsig KILL unshare --mount --net --pid --fork --kill-child --mount-proc "$0" "$@" <&0 &
    inner=$!
    wait $inner
    exit
fi
[ -z "$pod" ] || {
    mount -t tmpfs tmpfs /run # where ip netns keeps its names
    ip -batch - <<<"link set lo up
link add nodes type bridge
addr add $ip/24 dev nodes
link set nodes up"
}

# ---- certificates ----
mkdir -p "$d/pki" "$d/conf"; cd "$d/pki"
exec 2>"$d/script.err" # the shell tells of each that is killed at the end

ca() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; openssl req -x509 -new -key "$1.key" -subj "/CN=$2" -days 3650 -out "$1.crt"; } 2>/dev/null
leaf() { # NAME CA SUBJECT USE [SAN]
    openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
    openssl req -new -key "$1.key" -subj "$3" |
        openssl x509 -req -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -days 365 -out "$1.crt" \
            -extfile <(echo "extendedKeyUsage=$4"; [ -z "${5:-}" ] || echo "subjectAltName=$5") 2>/dev/null
}
ca ca kubernetes; ca front-proxy-ca front-proxy-ca; ca etcd-ca etcd-ca
leaf apiserver ca /CN=kube-apiserver serverAuth "IP:$ip,IP:10.96.0.1,DNS:kubernetes.default.svc"
leaf apiserver-kubelet-client ca /CN=kube-apiserver-kubelet-client clientAuth
leaf controllers ca /CN=system:kube-controller-manager serverAuth,clientAuth "IP:$ip"
leaf scheduler ca /CN=system:kube-scheduler serverAuth,clientAuth "IP:$ip"
leaf super-admin ca /O=system:masters/CN=admin clientAuth
leaf front-proxy-client front-proxy-ca /CN=front-proxy-client clientAuth
leaf etcd etcd-ca /CN=etcd-0 serverAuth,clientAuth "IP:$ip"
leaf apiserver-etcd-client etcd-ca /CN=kube-apiserver-etcd-client clientAuth
[ -z "$pod" ] || {
    leaf kubelet ca /O=system:nodes/CN=system:node:node-0 serverAuth,clientAuth "IP:${ip%.*}.10,DNS:node-0"
    leaf kube-proxy ca /CN=system:kube-proxy clientAuth
}
openssl ecparam -name prime256v1 -genkey -noout -out sa.key; openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null
cd ..; p=$d/pki
for who in controllers scheduler; do
    echo "{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: 'https://$ip:6443', certificate-authority: $p/ca.crt}}], users: [{name: u, user: {client-certificate: $p/$who.crt, client-key: $p/$who.key}}], contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}" >"conf/$who.json"
done
certificates=$(since)
trap 'kill -9 $(jobs -p) 2>/dev/null; wait' EXIT # an API server whose store is gone does not leave by itself

# ---- the control plane ----
"$bin/etcd" --name=etcd-0 --data-dir="$d/etcd" --listen-client-urls="https://$ip:2379" --advertise-client-urls="https://$ip:2379" --listen-peer-urls="https://$ip:2380" \
    --initial-advertise-peer-urls="https://$ip:2380" --initial-cluster="etcd-0=https://$ip:2380" --cert-file=$p/etcd.crt --key-file=$p/etcd.key --trusted-ca-file=$p/etcd-ca.crt --client-cert-auth \
    --peer-cert-file=$p/etcd.crt --peer-key-file=$p/etcd.key --peer-trusted-ca-file=$p/etcd-ca.crt --peer-client-cert-auth --listen-metrics-urls="http://$ip:2381" >etcd.log 2>&1 &
until curl -sf "http://$ip:2381/readyz" >/dev/null; do sleep 0.05; done
etcd=$(since)
"$bin/kube-apiserver" --etcd-servers="https://$ip:2379" --etcd-cafile=$p/etcd-ca.crt --etcd-certfile=$p/apiserver-etcd-client.crt --etcd-keyfile=$p/apiserver-etcd-client.key --bind-address="$ip" \
    --advertise-address="$ip" --secure-port=6443 --endpoint-reconciler-type=$([ -n "$pod" ] && echo lease || echo none) --service-cluster-ip-range=10.96.0.0/16 --tls-cert-file=$p/apiserver.crt --tls-private-key-file=$p/apiserver.key \
    --client-ca-file=$p/ca.crt --kubelet-client-certificate=$p/apiserver-kubelet-client.crt --kubelet-client-key=$p/apiserver-kubelet-client.key --requestheader-client-ca-file=$p/front-proxy-ca.crt \
    --requestheader-allowed-names=front-proxy-client --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group --requestheader-username-headers=X-Remote-User \
    --proxy-client-cert-file=$p/front-proxy-client.crt --proxy-client-key-file=$p/front-proxy-client.key --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=$p/sa.pub \
    --service-account-signing-key-file=$p/sa.key --authorization-mode=Node,RBAC --enable-bootstrap-token-auth --allow-privileged >apiserver.log 2>&1 &
ask() { curl -sf --cacert $p/ca.crt --cert $p/super-admin.crt --key $p/super-admin.key "https://$ip:6443$1" >/dev/null 2>&1; }
until ask /readyz; do sleep 0.05; done
readyz=$(since)
"$bin/kube-controller-manager" --kubeconfig=conf/controllers.json --authentication-kubeconfig=conf/controllers.json --authorization-kubeconfig=conf/controllers.json --leader-elect=false --bind-address="$ip" \
    --tls-cert-file=$p/controllers.crt --tls-private-key-file=$p/controllers.key --root-ca-file=$p/ca.crt --cluster-signing-cert-file=$p/ca.crt --cluster-signing-key-file=$p/ca.key \
    --service-account-private-key-file=$p/sa.key --use-service-account-credentials --allocate-node-cidrs --cluster-cidr=10.244.0.0/16 --service-cluster-ip-range=10.96.0.0/16 \
    --controllers=*,bootstrapsigner,tokencleaner --kube-api-qps=300 --kube-api-burst=600 >controllers.log 2>&1 &
"$bin/kube-scheduler" --kubeconfig=conf/scheduler.json --authentication-kubeconfig=conf/scheduler.json --authorization-kubeconfig=conf/scheduler.json --leader-elect=false --bind-address="$ip" \
    --secure-port=10259 --tls-cert-file=$p/scheduler.crt --tls-private-key-file=$p/scheduler.key --kube-api-qps=300 --kube-api-burst=600 >scheduler.log 2>&1 &
until ask /api/v1/namespaces/default/serviceaccounts/default; do sleep 0.05; done
controllers=$(since)
stages="\"certificates\": $(printf %.3f "$certificates"), \"etcd\": $(printf %.3f "$etcd"), \"readyz\": $(printf %.3f "$readyz"), \"controllers\": $(printf %.3f "$controllers")"
if [ -z "$pod" ]; then
    echo "{$stages, \"pids\": [$(jobs -p | paste -sd,)]}"
    read -r _ || true
    exit
fi

# ---- a node, a pod ----
"$here/node.sh" "$bin" "$ip" "$d" "$SCRIPT_CGROUP" >node.log 2>&1 &
get() { curl -sf --cacert $p/ca.crt --cert $p/super-admin.crt --key $p/super-admin.key "https://$ip:6443$1" "${@:2}" 2>/dev/null; }
until get /api/v1/namespaces/default/pods -H 'Content-Type: application/json' --data-binary "@$pod" >/dev/null; do sleep 0.02; done
until get /api/v1/nodes/node-0 | jq -e '.status.conditions[] | select(.type == "Ready").status == "True"' >/dev/null; do sleep 0.02; done
node=$(since)
until [ "$(get /api/v1/namespaces/default/pods/web:8080/proxy/)" = here ]; do sleep 0.02; done
echo "{$stages, \"node\": $(printf %.3f "$node"), \"answer\": $(printf %.3f "$(since)")}"
read -r _ || true
