// Speaks to a KMS v2 plugin as an API server does, with k8s.io/kms: one command a line of its input, one line of JSON an answer.
//
//	kms-client SOCKET
//
//	status
//	encrypt HEX
//	decrypt KEYID HEX
//	many N          N pairs of encrypt and decrypt, 32 at a time
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	kmsapi "k8s.io/kms/apis/v2"
)

const limit = 10 * time.Second

type answer map[string]any

func fail(err error) answer {
	return answer{"code": status.Code(err).String(), "error": status.Convert(err).Message()}
}

func pair(ctx context.Context, c kmsapi.KeyManagementServiceClient, i int) error {
	plain := []byte(fmt.Sprintf("seed number %021d", i))
	e, err := c.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: plain, Uid: strconv.Itoa(i)})
	if err != nil {
		return err
	}
	d, err := c.Decrypt(ctx, &kmsapi.DecryptRequest{Ciphertext: e.Ciphertext, KeyId: e.KeyId, Uid: strconv.Itoa(i), Annotations: e.Annotations})
	if err == nil && !bytes.Equal(d.Plaintext, plain) {
		err = fmt.Errorf("another text came back")
	}
	return err
}

func many(ctx context.Context, c kmsapi.KeyManagementServiceClient, n int) answer {
	var wg sync.WaitGroup
	var lock sync.Mutex
	var first error
	gate := make(chan struct{}, 32)
	for i := range n {
		wg.Add(1)
		gate <- struct{}{}
		go func() {
			defer wg.Done()
			if err := pair(ctx, c, i); err != nil {
				lock.Lock()
				first = err
				lock.Unlock()
			}
			<-gate
		}()
	}
	wg.Wait()
	if first != nil {
		return fail(first)
	}
	return answer{"code": "OK", "pairs": n}
}

func do(c kmsapi.KeyManagementServiceClient, words []string) answer {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	arg := func(i int) []byte {
		b, err := hex.DecodeString(words[i])
		if err != nil {
			panic(err)
		}
		return b
	}
	switch words[0] {
	case "status":
		s, err := c.Status(ctx, &kmsapi.StatusRequest{})
		if err != nil {
			return fail(err)
		}
		return answer{"code": "OK", "version": s.Version, "healthz": s.Healthz, "key": s.KeyId}
	case "encrypt":
		e, err := c.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: arg(1), Uid: "one"})
		if err != nil {
			return fail(err)
		}
		return answer{"code": "OK", "text": hex.EncodeToString(e.Ciphertext), "key": e.KeyId}
	case "decrypt":
		d, err := c.Decrypt(ctx, &kmsapi.DecryptRequest{KeyId: words[1], Ciphertext: arg(2), Uid: "two"})
		if err != nil {
			return fail(err)
		}
		return answer{"code": "OK", "text": hex.EncodeToString(d.Plaintext)}
	case "many":
		n, _ := strconv.Atoi(words[1])
		return many(ctx, c, n)
	}
	return answer{"code": "Unknown", "error": "no such command"}
}

func main() {
	conn, err := grpc.NewClient("unix:"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer conn.Close()
	out := json.NewEncoder(os.Stdout)
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		if words := strings.Fields(in.Text()); len(words) > 0 {
			_ = out.Encode(do(kmsapi.NewKeyManagementServiceClient(conn), words))
		}
	}
}
