//! The chart is sound by Helm's word, and a real API server takes everything that it renders.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{collections::BTreeMap, path::Path};

use clap::Parser as _;
use duosuan_tests::{
    access::rules,
    chart,
    cluster::{admin, api_of, apply, cluster, eventually, objects},
};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        batch::v1::Job,
        core::v1::{Container, PodTemplateSpec},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject},
};
use serde_json::{Value, json};

const NAMESPACE: &str = "colocation";

/// What the chart renders, its definitions included.
fn render(arguments: &[&str]) -> Vec<DynamicObject> {
    let all = [&["--include-crds"][..], arguments].concat();
    objects(&chart::render(NAMESPACE, &all).unwrap()).unwrap()
}

const ALL: &[&str] = &["--values", "tests/chart/all-options.yaml"];

fn name(object: &DynamicObject) -> String {
    format!("{} {}", object.types.as_ref().unwrap().kind, object.name_any())
}

fn find<'a>(objects: &'a [DynamicObject], wanted: &str) -> &'a DynamicObject {
    objects
        .iter()
        .find(|o| name(o) == wanted)
        .unwrap_or_else(|| panic!("{wanted} is not rendered"))
}

fn template<T: serde::de::DeserializeOwned>(object: &DynamicObject) -> T {
    serde_json::from_value(serde_json::to_value(object).unwrap()).unwrap()
}

#[test]
fn helm_finds_no_fault_whether_options_are_off_or_on() {
    for values in [&[][..], ALL] {
        let mut arguments = vec!["lint", "--strict", "charts/duosuan"];
        arguments.extend(values);
        let text = chart::run(&arguments).unwrap();
        assert!(text.contains("1 chart(s) linted, 0 chart(s) failed"), "{text}");
        assert!(!text.contains("[WARNING]") && !text.contains("[ERROR]"), "{text}");
    }
}

#[test]
fn values_that_the_chart_does_not_know_are_refused() {
    for (value, words) in [
        ("operator.replica=2", "replica"),
        ("operator.replicas=0", "replicas"),
        ("agent.ports.metrics=80", "metrics"),
        ("agent.stateDir=var", "stateDir"),
        ("operator.holdAfter=soon", "holdAfter"),
        ("operator.gpuDriverMemory=much", "gpuDriverMemory"),
        ("monitoring.podMonitors.interval=often", "interval"),
    ] {
        let output = chart::helm(&["template", "duosuan", "charts/duosuan", "--set", value]).unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(words), "{value}: {text}");
    }
}

fn is_hook(object: &DynamicObject) -> bool {
    object.annotations().contains_key("helm.sh/hook")
}

async fn applied(client: &Client, objects: &[DynamicObject]) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    apply(client, &serde_json::from_value(namespace).unwrap())
        .await
        .unwrap();
    // Definitions come first in what Helm renders, as in what it installs.
    let (definitions, rest): (Vec<_>, Vec<_>) = objects
        .iter()
        .partition(|o| o.types.as_ref().unwrap().kind == "CustomResourceDefinition");
    assert_eq!(definitions.len(), duosuan_crds::all().len());
    for object in definitions.iter().chain(&rest) {
        apply(client, object).await.unwrap();
        let stored = api_of(client, object)
            .await
            .unwrap()
            .get(&object.name_any())
            .await
            .unwrap();
        assert_eq!(stored.name_any(), object.name_any());
        if is_hook(object) {
            // Helm makes it anew each time.
            let api = api_of(client, object).await.unwrap();
            api.delete(&object.name_any(), &DeleteParams::background())
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn a_real_api_server_takes_every_object_of_the_chart() {
    let client = admin(cluster().unwrap()).await.unwrap();
    for object in objects(include_str!("chart/monitoring-crds.yaml")).unwrap() {
        apply(&client, &object).await.unwrap();
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    eventually("the Prometheus operator's kinds are served", async || {
        let crd = definitions.get("prometheusrules.monitoring.coreos.com").await?;
        let conditions = crd.status.and_then(|s| s.conditions).unwrap_or_default();
        Ok(conditions
            .iter()
            .any(|c| c.type_ == "Established" && c.status == "True")
            .then_some(()))
    })
    .await
    .unwrap();
    let default = render(&[]);
    applied(&client, &default).await;
    let all = render(ALL);
    applied(&client, &all).await;
    let names = |objects: &[DynamicObject]| objects.iter().map(name).collect::<std::collections::BTreeSet<_>>();
    let more: Vec<String> = names(&all).difference(&names(&default)).cloned().collect();
    assert_eq!(
        more,
        [
            "ConfigMap duosuan-dashboard",
            "PodMonitor duosuan-agent",
            "PodMonitor duosuan-operator",
            "PrometheusRule duosuan"
        ]
    );
}

#[test]
fn the_access_rules_are_those_of_up_in_the_release_s_namespace() {
    let wanted = rules().unwrap().replace("duosuan-system", NAMESPACE);
    let rendered: BTreeMap<String, Value> = render(&[])
        .iter()
        .map(|o| (name(o), serde_json::to_value(o).unwrap()))
        .collect();
    for object in objects(&wanted).unwrap() {
        if name(&object) != format!("Namespace {NAMESPACE}") {
            assert_eq!(
                rendered.get(&name(&object)),
                Some(&serde_json::to_value(&object).unwrap()),
                "{}",
                name(&object)
            );
        }
    }
    let text = serde_json::to_string(&rendered).unwrap();
    assert!(
        !text.contains("duosuan-system"),
        "something still names the namespace duosuan-system"
    );
}

#[test]
fn the_dashboard_and_the_rules_of_the_chart_are_those_of_the_repository() {
    let objects = render(ALL);
    let read = |name: &str| std::fs::read_to_string(chart::root().join("dashboards").join(name)).unwrap();
    let dashboard: Value = serde_json::from_str(&read("colocation.json")).unwrap();
    let shipped = find(&objects, "ConfigMap duosuan-dashboard").data["data"]["colocation.json"]
        .as_str()
        .unwrap();
    assert_eq!(serde_json::from_str::<Value>(shipped).unwrap(), dashboard);
    let rules: Value = serde_yaml::from_str(&read("rules.yaml")).unwrap();
    assert_eq!(find(&objects, "PrometheusRule duosuan").data["spec"], rules);
}

#[test]
fn the_agent_can_be_left_out() {
    let objects = render(&[
        "--set",
        "agent.enabled=false",
        "--set",
        "monitoring.podMonitors.enabled=true",
    ]);
    assert!(
        !objects
            .iter()
            .any(|o| name(o) == "DaemonSet duosuan-agent" || name(o) == "PodMonitor duosuan-agent")
    );
    // Whoever goes back to this may come from where there are agents.
    let events = objects.iter().filter_map(|o| o.annotations().get("helm.sh/hook"));
    assert!(events.clone().count() > 0 && events.clone().all(|event| event == "pre-rollback"));
    find(&objects, "Deployment duosuan-operator");
}

#[test]
fn the_binaries_understand_the_arguments_that_the_chart_gives_them() {
    for values in [&[][..], ALL] {
        let objects = render(values);
        let operator: Deployment = template(find(&objects, "Deployment duosuan-operator"));
        let arguments = arguments(&operator.spec.template);
        let parsed = duosuan_controller::options::Arguments::try_parse_from(arguments).unwrap();
        assert_eq!(parsed.lease_namespace, NAMESPACE);
        assert!(parsed.metrics_addr.is_some() && parsed.health_addr.is_some() && !parsed.no_leader_election);

        let agent: DaemonSet = template(find(&objects, "DaemonSet duosuan-agent"));
        let pod = agent.spec.template;
        let parsed = duosuan_node::options::Options::try_parse_from(self::arguments(&pod)).unwrap();
        assert_eq!(parsed.node.as_deref(), Some("node-a"));
        assert!(parsed.metrics_addr.is_some() && parsed.health_addr.is_some());
        // What must outlive the container lies on the node, and the kernel's files where the agent looks for them.
        let mounts = pod.spec.unwrap().containers[0].volume_mounts.clone().unwrap();
        let mounted = |path: &Path| {
            mounts
                .iter()
                .any(|m| Path::new(&m.mount_path) == path && m.read_only != Some(true))
        };
        assert!(mounted(parsed.journal.parent().unwrap()) && mounted(&parsed.cgroup_root));

        let leave: Job = template(find(&objects, "Job duosuan-leave"));
        let parsed =
            duosuan_node::options::Options::try_parse_from(self::arguments(&leave.spec.unwrap().template)).unwrap();
        assert_eq!(parsed.leave.as_deref(), Some(NAMESPACE));
    }
}

/// Helm deletes the agents' access with the agents: what is to be taken off the nodes is taken off before.
#[test]
fn what_runs_before_the_chart_is_uninstalled_has_its_access_then_and_no_longer() {
    let objects = render(ALL);
    let hooks: Vec<&DynamicObject> = objects.iter().filter(|o| is_hook(o)).collect();
    let names: Vec<String> = hooks.iter().map(|o| name(o)).collect();
    let kinds = [
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "Job",
    ];
    assert_eq!(names, kinds.map(|kind| format!("{kind} duosuan-leave")));
    for hook in hooks {
        let said = |key: &str| hook.annotations()[&format!("helm.sh/{key}")].clone();
        assert_eq!(said("hook"), "pre-delete");
        assert_eq!(said("hook-delete-policy"), "before-hook-creation,hook-succeeded");
        let weight = if name(hook) == "Job duosuan-leave" { "0" } else { "-1" };
        assert_eq!(said("hook-weight"), weight, "{}", name(hook));
    }
    let job: Job = template(find(&objects, "Job duosuan-leave"));
    let pod = job.spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.security_context.unwrap().run_as_non_root, Some(true));
    let agent: DaemonSet = template(find(&objects, "DaemonSet duosuan-agent"));
    let image = |containers: &[Container]| containers[0].image.clone().unwrap();
    assert_eq!(
        image(&pod.containers),
        image(&agent.spec.template.spec.unwrap().containers)
    );
}

/// The command line of a pod's only container, the program's name first, with its environment filled in.
fn arguments(pod: &PodTemplateSpec) -> Vec<String> {
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let arguments = container.args.clone().unwrap_or_default().into_iter();
    std::iter::once(container.name.clone())
        .chain(arguments.map(|a| a.replace("$(NODE_NAME)", "node-a")))
        .collect()
}

#[test]
fn no_container_has_more_of_the_system_than_it_needs() {
    let objects = render(&[]);
    let operator: Deployment = template(find(&objects, "Deployment duosuan-operator"));
    let agent: DaemonSet = template(find(&objects, "DaemonSet duosuan-agent"));
    for (name, pod) in [("operator", operator.spec.template), ("agent", agent.spec.template)] {
        let spec = pod.spec.unwrap();
        assert!(
            spec.host_pid != Some(true) && spec.host_network != Some(true) && spec.host_ipc != Some(true),
            "{name}"
        );
        let of_pod = spec.security_context.unwrap();
        assert_eq!(of_pod.seccomp_profile.unwrap().type_, "RuntimeDefault", "{name}");
        for container in spec.containers {
            let own = container.security_context.unwrap();
            assert!(!own.privileged.unwrap_or_default(), "{name}");
            assert_eq!(own.allow_privilege_escalation, Some(false), "{name}");
            assert_eq!(own.read_only_root_filesystem, Some(true), "{name}");
            let capabilities = own.capabilities.unwrap();
            // For pressure triggers that wake the agent in less than 2 s.
            let added = (name == "agent").then(|| vec!["SYS_RESOURCE".to_owned()]);
            assert_eq!(
                (capabilities.add, capabilities.drop),
                (added, Some(vec!["ALL".to_owned()])),
                "{name}"
            );
            // Probes and metrics find their ports.
            let ports: Vec<String> = container.ports.unwrap().into_iter().filter_map(|p| p.name).collect();
            assert_eq!(ports, ["metrics", "health"], "{name}");
        }
        let paths: Vec<String> = spec
            .volumes
            .unwrap_or_default()
            .into_iter()
            .map(|v| v.host_path.unwrap().path)
            .collect();
        let wanted: &[&str] = if name == "agent" {
            &["/sys/fs/cgroup", "/run/dbus", "/var/lib/duosuan"]
        } else {
            &[]
        };
        assert_eq!(paths, wanted, "{name}");
    }
}

/// It saw only its own tasks, and moved nobody into the group whose cache is limited.
#[test]
fn an_agent_that_is_to_limit_the_cache_sees_the_tasks_of_the_node() {
    let objects = render(&["--set", "agent.resctrl=true"]);
    let agent: DaemonSet = template(find(&objects, "DaemonSet duosuan-agent"));
    let spec = agent.spec.template.spec.unwrap();
    assert_eq!(spec.host_pid, Some(true));
    let mounted = |v: k8s_openapi::api::core::v1::Volume| v.host_path.is_some_and(|p| p.path == "/sys/fs/resctrl");
    assert!(spec.volumes.unwrap_or_default().into_iter().any(mounted));
}

#[test]
fn an_agent_that_is_to_hold_batchs_links_is_in_the_nodes_network_and_may_set_it() {
    let objects = render(&["--set", "agent.network=true"]);
    let agent: DaemonSet = template(find(&objects, "DaemonSet duosuan-agent"));
    let arguments = arguments(&agent.spec.template);
    assert!(
        duosuan_node::options::Options::try_parse_from(arguments)
            .unwrap()
            .network
    );
    let spec = agent.spec.template.spec.unwrap();
    assert_eq!((spec.host_network, spec.host_pid), (Some(true), Some(true)));
    assert_eq!(spec.dns_policy.as_deref(), Some("ClusterFirstWithHostNet"));
    let capabilities = spec.containers[0]
        .security_context
        .clone()
        .unwrap()
        .capabilities
        .unwrap();
    let added = ["SYS_RESOURCE", "NET_ADMIN"].map(str::to_owned).to_vec();
    assert_eq!(capabilities.add, Some(added));
}
