// Checks the resource API with client-go, as a Go controller uses it: typed, dynamic and metadata clients, informers, apply configurations, leader election, events, discovery.
//
//	client-go NAMESPACE CHECK...     (KUBECONFIG says where; without a CHECK: all)
//
// Prints a line a check, "ok NAME" or "FAILED NAME: why", and exits 1 when one failed. The namespace exists and is left empty.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
)

type suite struct {
	config *rest.Config
	kube   kubernetes.Interface
	dyn    dynamic.Interface
	ns     string
}

var endpoints = schema.GroupVersionResource{Group: "seki.cloud", Version: "v1alpha1", Resource: "modelendpoints"}

const limit = 60 * time.Second

func within(ctx context.Context, what string, done func() (bool, error)) error {
	if err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, limit, true, func(context.Context) (bool, error) { return done() }); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (s *suite) configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.ns, Labels: map[string]string{"by": "client-go"}}, Data: data}
}

func (s *suite) typed(ctx context.Context) error {
	maps := s.kube.CoreV1().ConfigMaps(s.ns)
	made, err := maps.Create(ctx, s.configMap("typed", map[string]string{"a": "1"}), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err = maps.Create(ctx, s.configMap("typed", nil), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("second create: %v", err)
	}
	stale := made.DeepCopy()
	made.Data["a"] = "2"
	if _, err = maps.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	stale.Data["a"] = "3"
	if _, err = maps.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("stale update: %v", err)
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		fresh, err := maps.Get(ctx, "typed", metav1.GetOptions{})
		if err == nil {
			fresh.Data["a"] = "4"
			_, err = maps.Update(ctx, fresh, metav1.UpdateOptions{})
		}
		return err
	})
	if err != nil {
		return err
	}
	for kind, patch := range map[types.PatchType]string{types.MergePatchType: `{"data":{"m":"1"}}`, types.StrategicMergePatchType: `{"data":{"s":"1"}}`, types.JSONPatchType: `[{"op":"add","path":"/data/j","value":"1"}]`} {
		if _, err = maps.Patch(ctx, "typed", kind, []byte(patch), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	uid := types.UID("not-this-one")
	if err = maps.Delete(ctx, "typed", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); !apierrors.IsConflict(err) {
		return fmt.Errorf("delete with another uid: %v", err)
	}
	if err = maps.Delete(ctx, "typed", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if _, err = maps.Get(ctx, "typed", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("get of a deleted one: %v", err)
	}
	return nil
}

func (s *suite) errorsAreTyped(ctx context.Context) error {
	bad := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelEndpoint", "metadata": map[string]any{"name": "bad"},
		"spec": map[string]any{"replicas": int64(-1), "engine": map[string]any{"driver": "none"}}}}
	_, err := s.dyn.Resource(endpoints).Namespace(s.ns).Create(ctx, bad, metav1.CreateOptions{})
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) || len(status.Status().Details.Causes) == 0 {
		return fmt.Errorf("expected Invalid with causes: %v", err)
	}
	if _, err = s.kube.CoreV1().ConfigMaps("no-such-namespace").Create(ctx, s.configMap("x", nil), metav1.CreateOptions{}); err == nil {
		return errors.New("a create in a namespace that is not there went through")
	}
	return nil
}

func (s *suite) apply(ctx context.Context) error {
	maps := s.kube.CoreV1().ConfigMaps(s.ns)
	one := applycore.ConfigMap("applied", s.ns).WithData(map[string]string{"x": "1", "y": "1"})
	if _, err := maps.Apply(ctx, one, metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		return err
	}
	two := applycore.ConfigMap("applied", s.ns).WithData(map[string]string{"x": "2"})
	if _, err := maps.Apply(ctx, two, metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
		return fmt.Errorf("expected a conflict of field managers: %v", err)
	}
	got, err := maps.Apply(ctx, two, metav1.ApplyOptions{FieldManager: "two", Force: true})
	if err != nil {
		return err
	}
	// What a manager owns can be read back as an apply configuration, changed and applied.
	owned, err := applycore.ExtractConfigMap(got, "one")
	if err != nil {
		return err
	}
	if owned.Data["y"] != "1" || owned.Data["x"] != "" {
		return fmt.Errorf("extracted: %v", owned.Data)
	}
	got, err = maps.Apply(ctx, owned.WithData(map[string]string{"z": "1"}), metav1.ApplyOptions{FieldManager: "one"})
	if err != nil {
		return err
	}
	if got.Data["x"] != "2" || got.Data["y"] != "1" || got.Data["z"] != "1" {
		return fmt.Errorf("after all: %v", got.Data)
	}
	return maps.Delete(ctx, "applied", metav1.DeleteOptions{})
}

func (s *suite) informer(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	factory := informers.NewSharedInformerFactoryWithOptions(s.kube, 0, informers.WithNamespace(s.ns))
	inf := factory.Core().V1().ConfigMaps().Informer()
	var mu sync.Mutex
	seen, deleted := map[string]string{}, map[string]bool{}
	note := func(obj any) {
		cm := obj.(*corev1.ConfigMap)
		mu.Lock()
		seen[cm.Name] = cm.Data["n"]
		mu.Unlock()
	}
	_, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: note, UpdateFunc: func(_, obj any) { note(obj) }, DeleteFunc: func(obj any) {
		mu.Lock()
		if cm, ok := obj.(*corev1.ConfigMap); ok {
			deleted[cm.Name] = true
		}
		mu.Unlock()
	}})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), inf.HasSynced) {
		return errors.New("the informer did not sync")
	}
	maps := s.kube.CoreV1().ConfigMaps(s.ns)
	const count = 50
	for i := range count {
		name := fmt.Sprintf("informed-%d", i)
		if _, err = maps.Create(ctx, s.configMap(name, map[string]string{"n": "0"}), metav1.CreateOptions{}); err != nil {
			return err
		}
		if _, err = maps.Patch(ctx, name, types.MergePatchType, []byte(`{"data":{"n":"1"}}`), metav1.PatchOptions{}); err != nil {
			return err
		}
	}
	if err = within(ctx, "all to be seen", func() (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		n := 0
		for name, v := range seen {
			if strings.HasPrefix(name, "informed-") && v == "1" {
				n++
			}
		}
		return n == count, nil
	}); err != nil {
		return err
	}
	if err = maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "by=client-go"}); err != nil {
		return err
	}
	return within(ctx, "all deletions to be seen", func() (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		return len(deleted) >= count, nil
	})
}

func (s *suite) dynamicInformer(ctx context.Context) error {
	ep := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelEndpoint", "metadata": map[string]any{"name": "dyn"},
		"spec": map[string]any{"replicas": int64(0), "engine": map[string]any{"driver": "fake"}}}}
	res := s.dyn.Resource(endpoints).Namespace(s.ns)
	if _, err := res.Create(ctx, ep, metav1.CreateOptions{}); err != nil {
		return err
	}
	w, err := res.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=dyn"})
	if err != nil {
		return err
	}
	defer w.Stop()
	applied := ep.DeepCopy()
	applied.SetLabels(map[string]string{"seen": "yes"})
	if _, err = res.Apply(ctx, "dyn", applied, metav1.ApplyOptions{FieldManager: "dyn", Force: true}); err != nil {
		return err
	}
	timeout := time.After(limit)
	for found := false; !found; {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				return errors.New("the watch ended")
			}
			if e.Type == watch.Modified {
				found = e.Object.(*unstructured.Unstructured).GetLabels()["seen"] == "yes"
			}
		case <-timeout:
			return errors.New("the change was not seen")
		}
	}
	foreground := metav1.DeletePropagationForeground
	return res.Delete(ctx, "dyn", metav1.DeleteOptions{PropagationPolicy: &foreground})
}

func (s *suite) pages(ctx context.Context) error {
	maps := s.kube.CoreV1().ConfigMaps(s.ns)
	for i := range 25 {
		if _, err := maps.Create(ctx, s.configMap(fmt.Sprintf("page-%02d", i), nil), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	var names []string
	p := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return maps.List(ctx, o) })
	p.PageSize = 7
	err := p.EachListItem(ctx, metav1.ListOptions{LabelSelector: "by in (client-go)"}, func(o runtime.Object) error {
		names = append(names, o.(*corev1.ConfigMap).Name)
		return nil
	})
	if err != nil {
		return err
	}
	if len(names) != 25 || !sort.StringsAreSorted(names) {
		return fmt.Errorf("%d names: %v", len(names), names)
	}
	return maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "by=client-go"})
}

func (s *suite) metadataClient(ctx context.Context) error {
	c, err := metadata.NewForConfig(s.config)
	if err != nil {
		return err
	}
	if _, err = s.kube.CoreV1().ConfigMaps(s.ns).Create(ctx, s.configMap("meta", map[string]string{"big": "v"}), metav1.CreateOptions{}); err != nil {
		return err
	}
	res := c.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(s.ns)
	one, err := res.Get(ctx, "meta", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if one.Name != "meta" || one.Labels["by"] != "client-go" {
		return fmt.Errorf("got %v", one)
	}
	all, err := res.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(all.Items) == 0 {
		return errors.New("an empty list")
	}
	return s.kube.CoreV1().ConfigMaps(s.ns).Delete(ctx, "meta", metav1.DeleteOptions{})
}

func (s *suite) mapper(context.Context) error {
	d, err := discovery.NewDiscoveryClientForConfig(s.config)
	if err != nil {
		return err
	}
	groups, err := restmapper.GetAPIGroupResources(d)
	if err != nil {
		return err
	}
	m := restmapper.NewShortcutExpander(restmapper.NewDiscoveryRESTMapper(groups), d, nil)
	gvr, err := m.ResourceFor(schema.GroupVersionResource{Resource: "mep"})
	if err != nil {
		return err
	}
	if gvr != endpoints {
		return fmt.Errorf("mep is %v", gvr)
	}
	mapping, err := m.RESTMapping(schema.GroupKind{Kind: "ConfigMap"}, "v1")
	if err != nil {
		return err
	}
	if mapping.Scope.Name() != "namespace" {
		return fmt.Errorf("scope %s", mapping.Scope.Name())
	}
	doc, err := d.OpenAPIV3().Paths()
	if err != nil {
		return err
	}
	if _, ok := doc["apis/seki.cloud/v1alpha1"]; !ok {
		return errors.New("no OpenAPI document of our group")
	}
	return nil
}

func (s *suite) leader(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var leading, most, terms atomic.Int32
	run := func(ctx context.Context, id string) {
		lock := &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Name: "leader", Namespace: s.ns}, Client: s.kube.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: id}}
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{Lock: lock, ReleaseOnCancel: true, LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					terms.Add(1)
					if n := leading.Add(1); n > most.Load() {
						most.Store(n)
					}
					<-ctx.Done()
				},
				OnStoppedLeading: func() {},
			}})
	}
	var wg sync.WaitGroup
	stops := []context.CancelFunc{}
	for i := range 3 {
		c, stop := context.WithCancel(ctx)
		stops = append(stops, stop)
		wg.Add(1)
		go func() { defer wg.Done(); run(c, fmt.Sprintf("candidate-%d", i)) }()
	}
	for want := int32(1); want <= 3; want++ {
		if err := within(ctx, "a leader", func() (bool, error) { return terms.Load() == want, nil }); err != nil {
			return err
		}
		lease, err := s.kube.CoordinationV1().Leases(s.ns).Get(ctx, "leader", metav1.GetOptions{})
		if err != nil {
			return err
		}
		var i int
		if _, err = fmt.Sscanf(*lease.Spec.HolderIdentity, "candidate-%d", &i); err != nil {
			return err
		}
		leading.Add(-1)
		stops[i]()
	}
	cancel()
	wg.Wait()
	if most.Load() != 1 {
		return fmt.Errorf("%d leaders at once", most.Load())
	}
	return s.kube.CoordinationV1().Leases(s.ns).Delete(context.Background(), "leader", metav1.DeleteOptions{})
}

func (s *suite) events(ctx context.Context) error {
	cm, err := s.kube.CoreV1().ConfigMaps(s.ns).Create(ctx, s.configMap("eventful", nil), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	b := record.NewBroadcaster()
	defer b.Shutdown()
	b.StartRecordingToSink(recorderSink{s})
	rec := b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "client-go-check"})
	for range 5 {
		rec.Event(cm, corev1.EventTypeNormal, "Happened", "again")
	}
	if err = within(ctx, "one event that counts five", func() (bool, error) {
		list, err := s.kube.CoreV1().Events(s.ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=eventful"})
		if err != nil {
			return false, err
		}
		return len(list.Items) == 1 && list.Items[0].Count == 5, nil
	}); err != nil {
		return err
	}
	return s.kube.CoreV1().ConfigMaps(s.ns).Delete(ctx, "eventful", metav1.DeleteOptions{})
}

type recorderSink struct{ s *suite }

func (r recorderSink) Create(e *corev1.Event) (*corev1.Event, error) {
	return r.s.kube.CoreV1().Events(r.s.ns).CreateWithEventNamespaceWithContext(context.Background(), e)
}
func (r recorderSink) Update(e *corev1.Event) (*corev1.Event, error) {
	return r.s.kube.CoreV1().Events(r.s.ns).UpdateWithEventNamespaceWithContext(context.Background(), e)
}
func (r recorderSink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	return r.s.kube.CoreV1().Events(r.s.ns).PatchWithEventNamespaceWithContext(context.Background(), e, data)
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: client-go NAMESPACE [CHECK...]")
		os.Exit(2)
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	config.QPS, config.Burst = 1000, 1000
	s := &suite{config: config, kube: kubernetes.NewForConfigOrDie(config), dyn: dynamic.NewForConfigOrDie(config), ns: os.Args[1]}
	checks := []struct {
		name string
		run  func(context.Context) error
	}{{"typed", s.typed}, {"errors", s.errorsAreTyped}, {"apply", s.apply}, {"informer", s.informer}, {"dynamic", s.dynamicInformer}, {"pages", s.pages},
		{"metadata", s.metadataClient}, {"mapper", s.mapper}, {"leader", s.leader}, {"events", s.events}}
	failed := false
	for _, c := range checks {
		wanted := len(os.Args) == 2
		for _, name := range os.Args[2:] {
			wanted = wanted || name == c.name
		}
		if !wanted {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
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
