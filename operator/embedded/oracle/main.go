// Command oracle says where kube-scheduler itself would let a pod go: it runs the filter plugins of the upstream
// scheduler, in process, on snapshots of clusters that do not exist.
//
// A snapshot is one line of JSON on standard input:
//
//	{"nodes": [Node...], "pods": [Pod...], "namespaces": [Namespace...], "pod": Pod,
//	 "persistentVolumes": [...], "persistentVolumeClaims": [...], "storageClasses": [...], "csiNodes": [...]}
//
// with objects of the core/v1 and storage.k8s.io/v1 APIs; what is not there is an empty list. "pods" are those that are
// bound; those that have ended are left out, as the scheduler's own watch does. "namespaces" are there for the namespace
// selectors of pod affinity. The answer is one line:
//
//	{"verdicts": {"node-a": null, "node-b": {"plugin": "NodeAffinity", "reasons": ["..."]}}}
//
// null for a node that takes the pod, else the first plugin that refuses, in the scheduler's default order. A snapshot
// that cannot be judged is answered by {"error": "..."}.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	schedulercache "k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodevolumelimits"
	"k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"
)

// asked are the plugins whose verdict counts; the first two are what a framework does not start without.
var asked = sets.New(
	names.PrioritySort, names.DefaultBinder,
	names.NodeUnschedulable, names.NodeName, names.TaintToleration, names.NodeAffinity, names.NodePorts,
	names.NodeResourcesFit, names.PodTopologySpread, names.InterPodAffinity,
	names.VolumeRestrictions, names.NodeVolumeLimits, names.VolumeBinding, names.VolumeZone,
)

type snapshot struct {
	Nodes      []*v1.Node      `json:"nodes"`
	Pods       []*v1.Pod       `json:"pods"`
	Namespaces []*v1.Namespace `json:"namespaces"`
	Pod        *v1.Pod         `json:"pod"`

	Volumes []*v1.PersistentVolume      `json:"persistentVolumes"`
	Claims  []*v1.PersistentVolumeClaim `json:"persistentVolumeClaims"`
	Classes []*storage.StorageClass     `json:"storageClasses"`
	Drivers []*storage.CSINode          `json:"csiNodes"`
}

type refusal struct {
	Plugin  string   `json:"plugin"`
	Reasons []string `json:"reasons"`
}

// lister is what the plugins hold on to; each snapshot in turn is put into it.
type lister struct{ *schedulercache.Snapshot }

// stores are those of the informers that the plugins list from.
type stores struct{ namespaces, volumes, claims, classes, drivers cache.Indexer }

type oracle struct {
	framework framework.Framework
	lister    *lister
	stores    stores
}

func newOracle(ctx context.Context) (*oracle, error) {
	metrics.Register()
	// Never connected: the informers are not started, what the plugins list is put into their stores.
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://127.0.0.1:0"})
	if err != nil {
		return nil, err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	defaults, err := latest.Default()
	if err != nil {
		return nil, err
	}
	profile := defaults.Profiles[0]
	others := func(plugin config.Plugin) bool { return !asked.Has(plugin.Name) }
	profile.Plugins.MultiPoint.Enabled = slices.DeleteFunc(profile.Plugins.MultiPoint.Enabled, others)
	if len(profile.Plugins.MultiPoint.Enabled) != len(asked) {
		return nil, fmt.Errorf("of %v, the default profile has only %v", sets.List(asked), profile.Plugins.MultiPoint.Enabled)
	}
	profile.PluginConfig = slices.DeleteFunc(profile.PluginConfig, func(c config.PluginConfig) bool { return !asked.Has(c.Name) })
	core, volumes := factory.Core().V1(), factory.Storage().V1()
	o := &oracle{
		lister: &lister{schedulercache.NewEmptySnapshot()},
		stores: stores{
			namespaces: core.Namespaces().Informer().GetIndexer(),
			volumes:    core.PersistentVolumes().Informer().GetIndexer(),
			claims:     core.PersistentVolumeClaims().Informer().GetIndexer(),
			classes:    volumes.StorageClasses().Informer().GetIndexer(),
			drivers:    volumes.CSINodes().Informer().GetIndexer(),
		},
	}
	o.framework, err = runtime.NewFramework(ctx, plugins.NewInTreeRegistry(), &profile,
		runtime.WithSnapshotSharedLister(o.lister), runtime.WithInformerFactory(factory), runtime.WithClientSet(client),
		runtime.WithSharedCSIManager(nodevolumelimits.NewCSIManager(volumes.CSINodes().Lister())))
	return o, err
}

// fill puts objects into a store, instead of all that was there.
func fill[T any](store cache.Indexer, objects []T) error {
	all := make([]any, len(objects))
	for i, object := range objects {
		all[i] = object
	}
	return store.Replace(all, "")
}

func (o *oracle) judge(ctx context.Context, s *snapshot) (map[string]*refusal, error) {
	if s.Pod == nil {
		return nil, fmt.Errorf("the snapshot has no pod")
	}
	known := sets.New[string]()
	for _, node := range s.Nodes {
		if known.Has(node.Name) {
			return nil, fmt.Errorf("two nodes are named %q", node.Name)
		}
		known.Insert(node.Name)
	}
	gone := func(pod *v1.Pod) bool {
		return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed || !known.Has(pod.Spec.NodeName)
	}
	o.lister.Snapshot = schedulercache.NewSnapshot(slices.DeleteFunc(s.Pods, gone), s.Nodes)
	if err := errors.Join(
		fill(o.stores.namespaces, s.Namespaces), fill(o.stores.volumes, s.Volumes), fill(o.stores.claims, s.Claims),
		fill(o.stores.classes, s.Classes), fill(o.stores.drivers, s.Drivers),
	); err != nil {
		return nil, err
	}

	state := framework.NewCycleState()
	result, status, by := o.framework.RunPreFilterPlugins(ctx, state, s.Pod)
	if !status.IsSuccess() && !status.IsRejected() {
		return nil, status.AsError()
	}
	verdicts := make(map[string]*refusal, len(s.Nodes))
	for _, node := range s.Nodes {
		switch {
		case !status.IsSuccess() && (result.AllNodes() || len(by) == 0):
			verdicts[node.Name] = refusalOf(status)
		case !result.AllNodes() && !result.NodeNames.Has(node.Name):
			verdicts[node.Name] = &refusal{Plugin: strings.Join(sets.List(by), ","), Reasons: []string{"node(s) didn't match PreFilter"}}
		default:
			info, err := o.lister.NodeInfos().Get(node.Name)
			if err != nil {
				return nil, err
			}
			status := o.framework.RunFilterPlugins(ctx, state, s.Pod, info)
			if !status.IsSuccess() && !status.IsRejected() {
				return nil, status.AsError()
			}
			verdicts[node.Name] = refusalOf(status)
		}
	}
	return verdicts, nil
}

func refusalOf(status *fwk.Status) *refusal {
	if status.IsSuccess() {
		return nil
	}
	return &refusal{Plugin: status.Plugin(), Reasons: status.Reasons()}
}

func (o *oracle) answer(ctx context.Context, line []byte) map[string]any {
	var s snapshot
	if err := json.Unmarshal(line, &s); err != nil {
		return map[string]any{"error": err.Error()}
	}
	verdicts, err := o.judge(ctx, &s)
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	return map[string]any{"verdicts": verdicts}
}

func run(ctx context.Context, in io.Reader, out io.Writer) error {
	o, err := newOracle(ctx)
	if err != nil {
		return err
	}
	lines, writer := bufio.NewReader(in), bufio.NewWriter(out)
	for {
		line, readErr := lines.ReadBytes('\n')
		if readErr != nil && readErr != io.EOF {
			return readErr
		}
		if len(strings.TrimSpace(string(line))) > 0 {
			text, err := json.Marshal(o.answer(ctx, line))
			if err != nil {
				return err
			}
			if _, err := writer.Write(append(text, '\n')); err != nil {
				return err
			}
			// Whoever asks one by one waits for the answer.
			if lines.Buffered() == 0 {
				if err := writer.Flush(); err != nil {
					return err
				}
			}
		}
		if readErr == io.EOF {
			return writer.Flush()
		}
	}
}

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := run(ctx, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}
