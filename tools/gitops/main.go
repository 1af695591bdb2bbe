// Checks the resource API with gitops-engine, the library in which Argo CD keeps its cache of a cluster, its differences and its synchronisation.
//
//	gitops NAMESPACE CHECK...     (KUBECONFIG says where; without a CHECK: all)
//
// Prints a line a check, "ok NAME" or "FAILED NAME: why", and exits 1 when one failed. The namespace exists and is left empty.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/cache"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/diff"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/engine"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync/common"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/tracing"
)

const (
	limit    = 60 * time.Second
	tracking = "argocd.argoproj.io/tracking-id"
	manager  = "argocd-controller" // Argo CD's own
)

type suite struct {
	config *rest.Config
	dyn    dynamic.Interface
	kube   *kube.KubectlCmd
	ns     string
}

var (
	maps      = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	endpoints = schema.GroupVersionResource{Group: "seki.cloud", Version: "v1alpha1", Resource: "modelendpoints"}
)

func within(ctx context.Context, what string, done func() (bool, error)) error {
	if err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, limit, true, func(context.Context) (bool, error) { return done() }); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// mark is what an application's objects bear, so that they are found again.
func (s *suite) mark(app string, o *unstructured.Unstructured) *unstructured.Unstructured {
	gvk := o.GroupVersionKind()
	notes := o.GetAnnotations()
	if notes == nil {
		notes = map[string]string{}
	}
	notes[tracking] = fmt.Sprintf("%s:%s/%s:%s/%s", app, gvk.Group, gvk.Kind, s.ns, o.GetName())
	o.SetAnnotations(notes)
	return o
}

func (s *suite) configMap(app, name, value string) *unstructured.Unstructured {
	return s.mark(app, &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "namespace": s.ns}, "data": map[string]any{"k": value}}})
}

func (s *suite) endpoint(app, name string, replicas int64) *unstructured.Unstructured {
	return s.mark(app, &unstructured.Unstructured{Object: map[string]any{"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelEndpoint", "metadata": map[string]any{"name": name, "namespace": s.ns},
		"spec": map[string]any{"replicas": replicas, "engine": map[string]any{"driver": "fake"}}}})
}

func (s *suite) role(app, name string) *unstructured.Unstructured {
	return s.mark(app, &unstructured.Unstructured{Object: map[string]any{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": map[string]any{"name": name, "namespace": s.ns},
		"rules": []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"configmaps"}, "verbs": []any{"get"}}}}})
}

// newCache follows every kind of the server that can be listed and watched, in all namespaces, and keeps whole manifests of what bears the mark.
func (s *suite) newCache(config *rest.Config, more ...cache.UpdateSettingsFunc) cache.ClusterCache {
	return cache.NewClusterCache(config, append([]cache.UpdateSettingsFunc{cache.SetLogr(logr.Discard()), cache.SetPopulateResourceInfoHandler(func(o *unstructured.Unstructured, _ bool) (any, bool) {
		mark := o.GetAnnotations()[tracking]
		return mark, mark != ""
	})}, more...)...)
}

func (s *suite) cached(c cache.ClusterCache, group, kind, name string) *cache.Resource {
	return c.FindResources(s.ns)[kube.NewResourceKey(group, kind, s.ns, name)]
}

// follows: the cache has what the server has, of every kind, and hears of what changes.
func (s *suite) follows(ctx context.Context) error {
	if _, err := s.dyn.Resource(maps).Namespace(s.ns).Create(ctx, s.configMap("follows", "before", "1"), metav1.CreateOptions{}); err != nil {
		return err
	}
	c := s.newCache(s.config)
	if err := c.EnsureSynced(); err != nil {
		return err
	}
	defer c.Invalidate()
	if !strings.HasPrefix(c.GetServerVersion(), "1.") && !strings.HasPrefix(c.GetServerVersion(), "v1.") {
		return fmt.Errorf("version %q", c.GetServerVersion())
	}
	followed := map[string]bool{}
	for _, api := range c.GetAPIResources() {
		followed[api.GroupKind.String()] = true
		// One that is not there for the cache, but for the server, would be deleted or made again for nothing. Events are excluded by Argo CD; they come and go.
		if api.GroupKind.Kind == "Event" || api.GroupKind.Kind == "Lease" {
			continue
		}
		listed, err := s.dyn.Resource(api.GroupVersionResource).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list of %s: %w", api.GroupVersionResource, err)
		}
		all := c.FindResources("", func(r *cache.Resource) bool { return r.Ref.GroupVersionKind().GroupKind() == api.GroupKind })
		for _, o := range listed.Items {
			if all[kube.GetResourceKey(&o)] == nil {
				return fmt.Errorf("the cache has no %s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())
			}
		}
	}
	for _, kind := range []string{"ConfigMap", "Secret", "Namespace", "ServiceAccount", "Model.seki.cloud", "ModelEndpoint.seki.cloud", "ClusterRole.rbac.authorization.k8s.io"} {
		if !followed[kind] {
			return fmt.Errorf("%s is not followed: %v", kind, followed)
		}
	}
	if namespaced, err := c.IsNamespaced(schema.GroupKind{Group: "seki.cloud", Kind: "Model"}); err != nil || !namespaced {
		return fmt.Errorf("models: namespaced %v, %v", namespaced, err)
	}
	var told atomic.Int32
	defer c.OnResourceUpdated(func(now, before *cache.Resource, _ map[kube.ResourceKey]*cache.Resource) {
		told.Add(1)
	})()
	if _, err := s.dyn.Resource(maps).Namespace(s.ns).Create(ctx, s.configMap("follows", "after", "1"), metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := within(ctx, "the cache to hear of a new one", func() (bool, error) { return s.cached(c, "", "ConfigMap", "after") != nil && told.Load() > 0, nil }); err != nil {
		return err
	}
	changed, err := s.dyn.Resource(maps).Namespace(s.ns).Patch(ctx, "after", types.MergePatchType, []byte(`{"data":{"k":"2"}}`), metav1.PatchOptions{})
	if err != nil {
		return err
	}
	if err := within(ctx, "the cache to hear of a change", func() (bool, error) {
		return s.cached(c, "", "ConfigMap", "after").ResourceVersion == changed.GetResourceVersion(), nil
	}); err != nil {
		return err
	}
	for _, name := range []string{"before", "after"} {
		if err := s.dyn.Resource(maps).Namespace(s.ns).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return within(ctx, "the cache to forget", func() (bool, error) {
		return s.cached(c, "", "ConfigMap", "before") == nil && s.cached(c, "", "ConfigMap", "after") == nil, nil
	})
}

// tree: the children of an object are found by their owner references.
func (s *suite) tree(ctx context.Context) error {
	if _, err := s.dyn.Resource(endpoints).Namespace(s.ns).Create(ctx, s.endpoint("tree", "parent", 2), metav1.CreateOptions{}); err != nil {
		return err
	}
	c := s.newCache(s.config)
	if err := c.EnsureSynced(); err != nil {
		return err
	}
	defer c.Invalidate()
	if err := within(ctx, "two children in the tree", func() (bool, error) {
		kinds := map[string]int{}
		c.IterateHierarchyV2([]kube.ResourceKey{kube.NewResourceKey("seki.cloud", "ModelEndpoint", s.ns, "parent")}, func(r *cache.Resource, _ map[kube.ResourceKey]*cache.Resource) bool {
			kinds[r.Ref.Kind]++
			return true
		})
		return kinds["ModelEndpoint"] == 1 && kinds["ModelReplica"] == 2, nil
	}); err != nil {
		return err
	}
	return s.dyn.Resource(endpoints).Namespace(s.ns).Delete(ctx, "parent", metav1.DeleteOptions{})
}

type application struct {
	*suite
	cache  cache.ClusterCache
	engine engine.GitOpsEngine
	name   string
}

func (s *suite) application(name string) (*application, func(), error) {
	c := s.newCache(s.config)
	e := engine.NewEngine(s.config, c, engine.WithLogr(logr.Discard()))
	stop, err := e.Run()
	return &application{s, c, e, name}, func() { stop() }, err
}

// sync is tried again, as Argo CD does, when an object changed between the engine's look and its write: the endpoint's controller writes status all the time.
func (a *application) sync(ctx context.Context, wanted []*unstructured.Unstructured, opts ...sync.SyncOpt) (map[string]string, error) {
	for tries := 1; ; tries++ {
		done, err := a.syncOnce(ctx, wanted, opts...)
		if err == nil || tries == 5 || !strings.Contains(err.Error(), "the object has been modified") {
			return done, err
		}
	}
}

// syncOnce brings the cluster to what is wanted, and says what was done with each object.
func (a *application) syncOnce(ctx context.Context, wanted []*unstructured.Unstructured, opts ...sync.SyncOpt) (map[string]string, error) {
	foreground := metav1.DeletePropagationForeground
	opts = append([]sync.SyncOpt{sync.WithLogr(logr.Discard()), sync.WithPrune(true), sync.WithPrunePropagationPolicy(&foreground), sync.WithManifestValidation(true)}, opts...)
	mine := func(r *cache.Resource) bool { mark, _ := r.Info.(string); return strings.HasPrefix(mark, a.name+":") }
	results, err := a.engine.Sync(ctx, wanted, mine, "revision", a.ns, opts...)
	done := map[string]string{}
	for _, r := range results {
		if r.Status != common.ResultCodeSynced && r.Status != common.ResultCodePruned {
			err = errors.Join(err, fmt.Errorf("%s: %s %s", r.ResourceKey, r.Status, r.Message))
		}
		done[r.ResourceKey.Kind+"/"+r.ResourceKey.Name] = r.Message
	}
	return done, err
}

func (a *application) settled(ctx context.Context, wanted map[string]string) error {
	return within(ctx, fmt.Sprintf("the server to have %v", wanted), func() (bool, error) {
		list, err := a.dyn.Resource(maps).Namespace(a.ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		found := map[string]string{}
		for _, o := range list.Items {
			if strings.HasPrefix(o.GetAnnotations()[tracking], a.name+":") {
				found[o.GetName()], _, _ = unstructured.NestedString(o.Object, "data", "k")
			}
		}
		_, err = a.dyn.Resource(endpoints).Namespace(a.ns).Get(ctx, "e", metav1.GetOptions{})
		return fmt.Sprint(found) == fmt.Sprint(wanted) && (len(wanted) == 0) == (err != nil), nil
	})
}

// synchronises: made, left alone, changed, and pruned in the foreground, in all the ways of applying.
func (s *suite) synchronises(ctx context.Context, name string, opts ...sync.SyncOpt) error {
	a, stop, err := s.application(name)
	if err != nil {
		return err
	}
	defer stop()
	steps := []struct {
		what   string
		wanted []*unstructured.Unstructured
		then   map[string]string
		word   string
	}{
		{"first", []*unstructured.Unstructured{s.configMap(name, "a", "1"), s.configMap(name, "b", "1"), s.endpoint(name, "e", 1), s.role(name, "r")}, map[string]string{"a": "1", "b": "1"}, ""},
		{"again", []*unstructured.Unstructured{s.configMap(name, "a", "1"), s.configMap(name, "b", "1"), s.endpoint(name, "e", 1), s.role(name, "r")}, map[string]string{"a": "1", "b": "1"}, ""},
		{"change and prune one", []*unstructured.Unstructured{s.configMap(name, "a", "2"), s.endpoint(name, "e", 2), s.role(name, "r")}, map[string]string{"a": "2"}, "b"},
		{"prune all", nil, map[string]string{}, "a"},
	}
	for _, step := range steps {
		done, err := a.sync(ctx, step.wanted, opts...)
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		if step.word != "" && !strings.Contains(done["ConfigMap/"+step.word], "pruned") {
			return fmt.Errorf("%s: %v", step.what, done)
		}
		if err := a.settled(ctx, step.then); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		// The next step decides by the cache.
		if err := within(ctx, step.what+": the cache to be as far", func() (bool, error) {
			return (s.cached(a.cache, "", "ConfigMap", "a") != nil) == (step.then["a"] != "") && (s.cached(a.cache, "", "ConfigMap", "b") != nil) == (step.then["b"] != ""), nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) clientSide(ctx context.Context) error { return s.synchronises(ctx, "client-side") }

func (s *suite) serverSide(ctx context.Context) error {
	return s.synchronises(ctx, "server-side", sync.WithServerSideApply(true), sync.WithServerSideApplyManager(manager))
}

func (s *suite) replace(ctx context.Context) error {
	return s.synchronises(ctx, "replace", sync.WithReplace(true))
}

// takesOver: server-side apply with force takes fields that another changed, and leaves what others added.
func (s *suite) takesOver(ctx context.Context) error {
	a, stop, err := s.application("takes-over")
	if err != nil {
		return err
	}
	defer stop()
	ssa := []sync.SyncOpt{sync.WithServerSideApply(true), sync.WithServerSideApplyManager(manager)}
	wanted := []*unstructured.Unstructured{s.configMap("takes-over", "t", "1")}
	if _, err = a.sync(ctx, wanted, ssa...); err != nil {
		return err
	}
	if _, err = s.dyn.Resource(maps).Namespace(s.ns).Patch(ctx, "t", types.MergePatchType, []byte(`{"data":{"k":"other","more":"1"}}`), metav1.PatchOptions{FieldManager: "other"}); err != nil {
		return err
	}
	if _, err = a.sync(ctx, wanted, ssa...); err != nil {
		return err
	}
	live, err := s.dyn.Resource(maps).Namespace(s.ns).Get(ctx, "t", metav1.GetOptions{})
	if err != nil {
		return err
	}
	data, _, _ := unstructured.NestedStringMap(live.Object, "data")
	owners := ""
	for _, m := range live.GetManagedFields() {
		if m.Operation == metav1.ManagedFieldsOperationApply {
			owners += m.Manager
		}
	}
	if data["k"] != "1" || data["more"] != "1" || owners != manager {
		return fmt.Errorf("data %v, applied by %q", data, owners)
	}
	_, err = a.sync(ctx, nil, ssa...)
	return err
}

// differs: server-side differences by a dry run of apply, and structured differences by the OpenAPI document, for a kind of Kubernetes' and one of ours.
func (s *suite) differs(ctx context.Context) error {
	c := s.newCache(s.config)
	if err := c.EnsureSynced(); err != nil {
		return err
	}
	defer c.Invalidate()
	runner, cleanup, err := s.kube.ManageServerSideDiffDryRuns(s.config)
	if err != nil {
		return err
	}
	defer cleanup()
	parser := c.GetGVKParser()
	for _, kind := range []struct {
		what          schema.GroupVersionResource
		same, changed *unstructured.Unstructured
	}{{maps, s.configMap("differs", "d", "1"), s.configMap("differs", "d", "2")}, {endpoints, s.endpoint("differs", "d", 0), s.endpoint("differs", "d", 1)}} {
		if parser.Type(kind.same.GroupVersionKind()) == nil {
			return fmt.Errorf("OpenAPI has no type for %s", kind.same.GroupVersionKind())
		}
		objects := s.dyn.Resource(kind.what).Namespace(s.ns)
		live, err := objects.Apply(ctx, "d", kind.same, metav1.ApplyOptions{FieldManager: manager, Force: true})
		if err != nil {
			return err
		}
		for name, opts := range map[string][]diff.Option{
			"server-side": {diff.WithServerSideDiff(true), diff.WithServerSideDryRunner(diff.NewK8sServerSideDryRunner(runner)), diff.WithIgnoreMutationWebhook(true)},
			"structured":  {diff.WithStructuredMergeDiff(true)},
		} {
			opts = append(opts, diff.WithGVKParser(parser), diff.WithManager(manager), diff.WithLogr(logr.Discard()))
			for _, wanted := range []struct {
				config *unstructured.Unstructured
				differ bool
			}{{kind.same, false}, {kind.changed, true}} {
				// Controllers write status beside us: what is compared has to be the newest.
				var got *diff.DiffResult
				if err := within(ctx, "an object that nobody writes", func() (bool, error) {
					live, err := objects.Get(ctx, "d", metav1.GetOptions{})
					if err != nil {
						return false, err
					}
					if got, err = diff.Diff(wanted.config.DeepCopy(), live.DeepCopy(), opts...); err != nil {
						return false, err
					}
					now, err := objects.Get(ctx, "d", metav1.GetOptions{})
					return err == nil && now.GetResourceVersion() == live.GetResourceVersion(), err
				}); err != nil {
					return fmt.Errorf("%s of %s: %w", name, kind.what.Resource, err)
				}
				if got.Modified != wanted.differ {
					return fmt.Errorf("%s of %s: modified %v: %s against %s", name, kind.what.Resource, got.Modified, got.PredictedLive, got.NormalizedLive)
				}
			}
		}
		now, err := objects.Get(ctx, "d", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if now.GetGeneration() != live.GetGeneration() || kind.what == maps && now.GetResourceVersion() != live.GetResourceVersion() {
			return fmt.Errorf("a dry run wrote %s", kind.what.Resource)
		}
		if err = objects.Delete(ctx, "d", metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// limited: somebody who may see ConfigMaps of one namespace alone asks what may be listed, and follows that.
func (s *suite) limited(ctx context.Context) error {
	rbac := func(resource string) dynamic.ResourceInterface {
		return s.dyn.Resource(schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: resource}).Namespace(s.ns)
	}
	role := s.role("limited", "limited")
	role.Object["rules"] = []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"configmaps"}, "verbs": []any{"get", "list", "watch"}}}
	binding := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": "limited"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "limited"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "argocd"}}}}
	if _, err := rbac("roles").Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := rbac("rolebindings").Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := s.dyn.Resource(maps).Namespace(s.ns).Create(ctx, s.configMap("limited", "seen", "1"), metav1.CreateOptions{}); err != nil {
		return err
	}
	config := rest.CopyConfig(s.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "argocd", Groups: []string{"system:authenticated"}}
	c := s.newCache(config, cache.SetNamespaces([]string{s.ns}), cache.SetRespectRBAC(cache.RespectRbacStrict))
	if err := c.EnsureSynced(); err != nil {
		return err
	}
	defer c.Invalidate()
	for key := range c.FindResources("") {
		if key.Kind != "ConfigMap" || key.Namespace != s.ns {
			return fmt.Errorf("sees %s", key)
		}
	}
	if s.cached(c, "", "ConfigMap", "seen") == nil {
		return errors.New("does not see its ConfigMap")
	}
	if err := s.dyn.Resource(maps).Namespace(s.ns).Delete(ctx, "seen", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := within(ctx, "the limited cache to forget", func() (bool, error) { return s.cached(c, "", "ConfigMap", "seen") == nil, nil }); err != nil {
		return err
	}
	return errors.Join(rbac("rolebindings").Delete(ctx, "limited", metav1.DeleteOptions{}), rbac("roles").Delete(ctx, "limited", metav1.DeleteOptions{}))
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: gitops NAMESPACE [CHECK...]")
		os.Exit(2)
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	config.QPS, config.Burst = 1000, 1000
	s := &suite{config: config, dyn: dynamic.NewForConfigOrDie(config), kube: &kube.KubectlCmd{Log: logr.Discard(), Tracer: tracing.NopTracer{}}, ns: os.Args[1]}
	checks := []struct {
		name string
		run  func(context.Context) error
	}{{"follows", s.follows}, {"tree", s.tree}, {"client-side", s.clientSide}, {"server-side", s.serverSide}, {"replace", s.replace}, {"takes-over", s.takesOver}, {"differs", s.differs}, {"limited", s.limited}}
	failed := false
	for _, c := range checks {
		wanted := len(os.Args) == 2
		for _, name := range os.Args[2:] {
			wanted = wanted || name == c.name
		}
		if !wanted {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*limit)
		if err := c.run(ctx); err != nil {
			failed = true
			fmt.Printf("FAILED %s: %v\n", c.name, err)
		} else {
			fmt.Printf("ok %s\n", c.name)
		}
		cancel()
	}
	if failed {
		os.Exit(1)
	}
}
