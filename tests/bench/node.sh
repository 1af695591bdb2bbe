#!/usr/bin/env bash
# The node of tests/bench/cluster.sh, as one would make it by hand; that script is its only caller and has the certificates ready in DIRECTORY/pki.
# usage: node.sh PROGRAMS-DIR ADDRESS DIRECTORY NAME    ADDRESS: the API server's, on a bridge called nodes of this network namespace; NAME: of the control group, made by the caller
set -euo pipefail
bin=$1 ip=$2 d=$3/node cgroup=$4 p=$3/pki
address=${ip%.*}.10

# ---- within: the first process of the node ----
if [ "${5:-}" = within ]; then
    for c in /sys/fs/cgroup/*/"$cgroup" /sys/fs/cgroup/"$cgroup"/system; do # of version 1, of version 2
        [ ! -e "$c/cgroup.procs" ] || [[ $c = */unified/* ]] || echo 0 >"$c/cgroup.procs"
    done
    hostname node-0
    mount --make-rprivate /
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /var/lib # the kubelet's places are in its program: what this machine has there stays untouched
    for what in lib/kubelet lib/containerd lib/cni log; do
        mkdir -p "$d/${what##*/}" "/var/$what"
        mount --bind "$d/${what##*/}" "/var/$what"
    done
    mount --bind /dev/null /dev/kmsg
    mount --make-rshared / # pods see what is mounted later
    echo 1 >/proc/sys/net/ipv4/ip_forward
    echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
    export PATH=$bin:$PATH HOME=/run
    containerd --config "$d/containerd.toml" >"$d/containerd.log" 2>&1 &
    until ctr version >/dev/null 2>&1; do sleep 0.02; done
    for image in pause busybox; do ctr -n k8s.io images import --local "$bin/images/$image.tar"; done >"$d/images.log" 2>&1 &
    kubelet --config="$d/kubelet.json" --kubeconfig="$d/kubelet-kubeconfig.json" --node-ip="$address" --hostname-override=node-0 >"$d/kubelet.log" 2>&1 &
    kube-proxy --config="$d/kube-proxy.json" >"$d/kube-proxy.log" 2>&1 &
    wait
    exit
fi

# ---- settings ----
mkdir -p "$d/cni"
kubeconfig() { # CERTIFICATE
    echo "{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: 'https://$ip:6443', certificate-authority: $p/ca.crt}}], users: [{name: u, user: {client-certificate: $p/$1.crt, client-key: $p/$1.key}}], contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}"
}
kubeconfig kubelet >"$d/kubelet-kubeconfig.json"
kubeconfig kube-proxy >"$d/kube-proxy-kubeconfig.json"
echo "# no names from below" >"$d/resolv.conf"
cat >"$d/kubelet.json" <<END
{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "address": "$address", "readOnlyPort": 0, "healthzBindAddress": "127.0.0.1",
 "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": "$p/ca.crt"}}, "authorization": {"mode": "Webhook"},
 "tlsCertFile": "$p/kubelet.crt", "tlsPrivateKeyFile": "$p/kubelet.key", "cgroupDriver": "cgroupfs", "cgroupRoot": "/$cgroup", "failCgroupV1": false, "failSwapOn": false,
 "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local", "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock", "resolvConf": "$d/resolv.conf",
 "volumePluginDir": "$d/plugins", "evictionHard": {"memory.available": "64Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"}}
END
cat >"$d/kube-proxy.json" <<END
{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables", "clientConnection": {"kubeconfig": "$d/kube-proxy-kubeconfig.json"}, "clusterCIDR": "10.244.0.0/16",
 "hostnameOverride": "node-0", "metricsBindAddress": "127.0.0.1:10249", "healthzBindAddress": "127.0.0.1:10256",
 "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}}
END
cat >"$d/cni/10-pods.conflist" <<END
{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true,
 "ipam": {"type": "host-local", "dataDir": "/run/ipam", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}, {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
cat >"$d/containerd.toml" <<END
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$d/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$d/cni"
END

# ---- the cable ----
ip netns add node
ip link add n0 type veth peer name eth0 netns node
ip link set n0 master nodes up
ip -n node -batch - <<END
link set lo up
addr add $address/24 dev eth0
link set eth0 up
route add default via $ip
END
ip route add 10.244.0.0/24 via "$address"
# nsenter, since ip netns exec mounts another /sys, without control groups
exec nsenter --net=/run/netns/node unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc "$0" "$1" "$2" "$3" "$4" within
