#!/usr/bin/env bash
# The yardstick of tests/bench/clusters.py: the same programs brought up by a plain script, as one would by hand. Prints JSON with seconds since its start.
# usage: cluster.sh PROGRAMS-DIR ADDRESS DIRECTORY    (ends when stdin is closed, and takes everything with it)
set -euo pipefail
bin=$1 ip=$2 d=$3
mkdir -p "$d/pki" "$d/conf"; cd "$d/pki"
exec 2>"$d/script.err" # the shell tells of each that is killed at the end
began=$(date +%s.%N)
since() { echo "$(date +%s.%N) - $began" | bc; }

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
openssl ecparam -name prime256v1 -genkey -noout -out sa.key; openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null
cd ..; p=$d/pki
for who in controllers scheduler; do
    echo "{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: 'https://$ip:6443', certificate-authority: $p/ca.crt}}], users: [{name: u, user: {client-certificate: $p/$who.crt, client-key: $p/$who.key}}], contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}" >"conf/$who.json"
done
certificates=$(since)
trap 'kill -9 $(jobs -p) 2>/dev/null; wait' EXIT # an API server whose store is gone does not leave by itself

"$bin/etcd" --name=etcd-0 --data-dir="$d/etcd" --listen-client-urls="https://$ip:2379" --advertise-client-urls="https://$ip:2379" --listen-peer-urls="https://$ip:2380" \
    --initial-advertise-peer-urls="https://$ip:2380" --initial-cluster="etcd-0=https://$ip:2380" --cert-file=$p/etcd.crt --key-file=$p/etcd.key --trusted-ca-file=$p/etcd-ca.crt --client-cert-auth \
    --peer-cert-file=$p/etcd.crt --peer-key-file=$p/etcd.key --peer-trusted-ca-file=$p/etcd-ca.crt --peer-client-cert-auth --listen-metrics-urls="http://$ip:2381" >etcd.log 2>&1 &
until curl -sf "http://$ip:2381/readyz" >/dev/null; do sleep 0.05; done
etcd=$(since)
"$bin/kube-apiserver" --etcd-servers="https://$ip:2379" --etcd-cafile=$p/etcd-ca.crt --etcd-certfile=$p/apiserver-etcd-client.crt --etcd-keyfile=$p/apiserver-etcd-client.key --bind-address="$ip" \
    --advertise-address="$ip" --secure-port=6443 --endpoint-reconciler-type=none --service-cluster-ip-range=10.96.0.0/16 --tls-cert-file=$p/apiserver.crt --tls-private-key-file=$p/apiserver.key \
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
echo "{\"certificates\": $(printf %.3f "$certificates"), \"etcd\": $(printf %.3f "$etcd"), \"readyz\": $(printf %.3f "$readyz"), \"controllers\": $(printf %.3f "$(since)"), \"pids\": [$(jobs -p | paste -sd,)]}"
read -r _ || true
