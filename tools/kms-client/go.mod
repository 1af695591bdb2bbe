module seki.example/kms-client

go 1.26.0

require (
	google.golang.org/grpc v1.81.0
	k8s.io/kms v0.37.2
)
