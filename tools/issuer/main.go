// An issuer of OpenID Connect tokens for tests: the certified provider of zitadel/oidc, with users, clients and keys that a test chooses.
//
//	issuer -listen 127.0.0.1:0 -cert FILE -key FILE -users '{"ann": ["developers"]}' -life 60s
//
// It prints its URL. Beside the protocol it has, for the test that drives it: /test/rotate?alg=ES256&keep=1 makes another key and shows the last keep ones,
// /test/token signs the claims in the body (kid and key: other key ids), /test/down?on=1 has it answer 503, /test/fetches counts how often its keys were fetched.
package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// ---- users ----

type users map[string][]string // name to groups; the password is the name backwards

func password(name string) string {
	b := []byte(name)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}

func (u users) GetUserByID(name string) *storage.User {
	if _, ok := u[name]; !ok {
		return nil
	}
	return &storage.User{ID: name, Username: name, Password: password(name), Email: name + "@example.test", EmailVerified: true}
}
func (u users) GetUserByUsername(name string) *storage.User { return u.GetUserByID(name) }
func (u users) ExampleClientID() string                     { return "example" }

// ---- keys ----

type key struct {
	id      string
	alg     jose.SignatureAlgorithm
	private crypto.Signer
}

func (k *key) ID() string                                  { return k.id }
func (k *key) SignatureAlgorithm() jose.SignatureAlgorithm { return k.alg }
func (k *key) Key() any                                    { return k.private }

type public struct{ *key }

func (p public) Algorithm() jose.SignatureAlgorithm { return p.alg }
func (p public) Use() string                        { return "sig" }
func (p public) Key() any                           { return p.private.Public() }

var made atomic.Int64

func newKey(alg string) (*key, error) {
	var private crypto.Signer
	var err error
	switch alg {
	case "RS256", "PS256":
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "EdDSA":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("unknown algorithm %q", alg)
	}
	return &key{fmt.Sprintf("key-%d", made.Add(1)), jose.SignatureAlgorithm(alg), private}, err
}

// ---- clients ----

type client struct {
	*storage.Client
	life time.Duration
}

func (c client) IDTokenLifetime() time.Duration       { return c.life }
func (c client) IDTokenUserinfoClaimsAssertion() bool { return true }
func (c client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken, oidc.GrantTypeDeviceCode}
}

// ---- the provider's storage: the example's, with our keys, clients and groups ----

type store struct {
	*storage.Storage
	users users
	life  time.Duration
	lock  sync.Mutex
	keys  []*key // the first signs
}

func (s *store) SigningKey(context.Context) (op.SigningKey, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.keys[0], nil
}

func (s *store) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	return []jose.SignatureAlgorithm{s.keys[0].alg}, nil
}

func (s *store) KeySet(context.Context) ([]op.Key, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	var all []op.Key
	for _, k := range s.keys {
		all = append(all, public{k})
	}
	return all, nil
}

func (s *store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	plain, ok := c.(*storage.Client)
	if !ok {
		return nil, fmt.Errorf("an unexpected client")
	}
	return client{plain, s.life}, nil
}

func (s *store) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, token op.IDTokenRequest, _ []string) error {
	u := s.users.GetUserByID(token.GetSubject())
	if u == nil {
		return fmt.Errorf("no such user")
	}
	info.Subject = u.ID
	info.Email = u.Email
	info.EmailVerified = true
	info.PreferredUsername = u.Username
	info.AppendClaims("groups", s.users[u.ID])
	return nil
}

// ---- what a test does ----

func (s *store) rotate(w http.ResponseWriter, r *http.Request) {
	k, err := newKey(r.FormValue("alg"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	keep, _ := strconv.Atoi(r.FormValue("keep"))
	s.lock.Lock()
	defer s.lock.Unlock()
	s.keys = append([]*key{k}, s.keys[:min(keep, len(s.keys))]...)
	fmt.Fprintln(w, k.id)
}

func (s *store) token(w http.ResponseWriter, r *http.Request) {
	claims, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.lock.Lock()
	k := s.keys[0]
	s.lock.Unlock()
	kid := k.id
	if r.URL.Query().Has("kid") {
		kid = r.URL.Query().Get("kid")
	}
	options := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		options = options.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.alg, Key: k.private}, options)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	text, _ := signed.CompactSerialize()
	fmt.Fprint(w, text)
}

// ---- pages for people ----

func (s *store) login(provider *op.Provider) http.HandlerFunc {
	interceptor := op.NewIssuerInterceptor(provider.IssuerFromRequest)
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			fmt.Fprintln(w, "POST username and password")
			return
		}
		id := r.URL.Query().Get("authRequestID")
		if err := s.CheckUsernamePassword(r.FormValue("username"), r.FormValue("password"), id); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		interceptor.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, op.AuthCallbackURL(provider)(r.Context(), id), http.StatusFound)
		})(w, r)
	}
}

func (s *store) device(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		fmt.Fprintln(w, "POST user_code, username and password")
		return
	}
	var err error
	code, name := r.FormValue("user_code"), r.FormValue("username")
	if r.FormValue("deny") != "" {
		err = s.DenyDeviceAuthorization(r.Context(), code)
	} else if err = s.CheckUsernamePasswordSimple(name, r.FormValue("password")); err == nil {
		err = s.CompleteDeviceAuthorization(r.Context(), code, name)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	fmt.Fprintln(w, "done")
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address")
	cert := flag.String("cert", "", "certificate")
	certKey := flag.String("key", "", "its key")
	who := flag.String("users", "{}", "groups by user, as JSON")
	life := flag.Duration("life", time.Hour, "how long tokens are good")
	alg := flag.String("alg", "RS256", "algorithm of the first key")
	poll := flag.Duration("poll", time.Second, "interval of the device flow")
	flag.Parse()

	s := &store{users: users{}, life: *life}
	if err := json.Unmarshal([]byte(*who), &s.users); err != nil {
		log.Fatal(err)
	}
	k, err := newKey(*alg)
	if err != nil {
		log.Fatal(err)
	}
	s.keys = []*key{k}
	storage.RegisterClients(storage.NativeClient("seki", "http://127.0.0.1/callback"), storage.NativeClient("other", "http://127.0.0.1/callback"))
	s.Storage = storage.NewStorage(s.users)

	socket, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	issuer := "https://" + socket.Addr().String()
	config := &op.Config{
		CodeMethodS256: true, AuthMethodPost: true, GrantTypeRefreshToken: true,
		DeviceAuthorization: op.DeviceAuthorizationConfig{Lifetime: time.Minute, PollInterval: *poll, UserFormPath: "/device", UserCode: op.UserCodeBase20},
	}
	rand.Read(config.CryptoKey[:])
	provider, err := op.NewProvider(config, s, op.StaticIssuer(issuer))
	if err != nil {
		log.Fatal(err)
	}

	var down atomic.Bool
	var fetches atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/test/rotate", s.rotate)
	mux.HandleFunc("/test/token", s.token)
	mux.HandleFunc("/test/down", func(w http.ResponseWriter, r *http.Request) { down.Store(r.FormValue("on") != "") })
	mux.HandleFunc("/test/fetches", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, fetches.Load()) })
	mux.HandleFunc("/login/username", s.login(provider))
	mux.HandleFunc("/device", s.device)
	mux.Handle("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path == "/keys" {
			fetches.Add(1)
		}
		provider.ServeHTTP(w, r)
	}))
	fmt.Println(issuer)
	log.Fatal(http.ServeTLS(socket, mux, *cert, *certKey))
}
