//! Every bound and every rule in the definitions is tried: bounds are read from the definitions and reached and passed on a
//! real API server, and no rule is without a case in the tables of `api_crds`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use duosuan_tests::cluster::{admin, api_of, cluster, install_crds};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

/// One object of each kind in which every field that has a bound is set.
const FULL: [(&str, &str); 3] = [
    (
        "CapacityClaim",
        "
queue: q
priority: 0
groups:
- name: a
  count: 1
  min: 0
  max: 4
  quantum: 1
  requests: {cpu: 1}
  gpus: {count: 1, share: 1, memory: 1, models: [m]}
  topology: {pack: node}
  tolerations: [{operator: Exists}]
expectedDuration: 1h
interruption: {notice: 1m, minRuntime: 1m, checkpointInterval: 1m}
",
    ),
    (
        "Queue",
        "
parent: p
weight: 1
quotas:
- {tier: prod, guaranteed: {cpu: 1}, limit: {cpu: 1}, lendLimit: {cpu: 1}}
namespaces: [a]
fairnessHalfLife: 1h
",
    ),
    (
        "ColocationPolicy",
        "
nodeSelector: {a: b}
groups: [{path: a, tier: prod}]
placement: {cpuPercent: 80, memoryPercent: 90}
reclaim: {quantilePercent: 98, cpuMarginPercent: 10, memoryMarginPercent: 10, growthPercent: 10, hold: 60s, expire: 5m, mid: {cpuPercent: 25, memoryPercent: 25, quantilePercent: 99, warmUp: 24h}}
guards:
  cpu: {stallMilli: 100, floor: 1, burstPercent: 20}
  memory: {stallMilli: 50, availablePercent: 5}
  io: {stallMilli: 100}
  llc: {cachePercent: 20, bandwidthPercent: 50}
  network: {rate: 2G, line: 25G}
  gpu: {busyPercent: 60}
  latency: {budgetPercent: 80}
eviction: {availablePercent: 50, killPercent: 1, suppressedFor: 5m, midNotice: 60s}
",
    ),
];

/// A bound: where, a value that reaches it, one that passes it, and the words of the refusal.
#[derive(Debug)]
struct Bound {
    pointer: String,
    reaches: Value,
    passes: Value,
    words: String,
}

fn schema(crd: &CustomResourceDefinition) -> &JSONSchemaProps {
    crd.spec.versions[0]
        .schema
        .as_ref()
        .unwrap()
        .open_api_v3_schema
        .as_ref()
        .unwrap()
}

/// Bounds of a field and of what lies below it. What Kubernetes' own types bound is Kubernetes' to test.
fn bounds(pointer: &str, schema: &JSONSchemaProps, found: &mut Vec<Bound>) {
    let mut push = |reaches: Value, passes: Value, words: String| {
        found.push(Bound {
            pointer: pointer.to_owned(),
            reaches,
            passes,
            words,
        });
    };
    #[allow(clippy::cast_possible_truncation, reason = "bounds are whole numbers")]
    if schema.x_kubernetes_int_or_string.is_none() {
        if let Some(least) = schema.minimum.map(|m| m as i64) {
            push(
                json!(least),
                json!(least - 1),
                format!("greater than or equal to {least}"),
            );
        }
        if let Some(most) = schema.maximum.map(|m| m as i64) {
            push(json!(most), json!(most + 1), format!("less than or equal to {most}"));
        }
    }
    // Of quantities and durations not every length makes sense; their forms are in the tables.
    if schema.x_kubernetes_validations.is_none() && schema.x_kubernetes_int_or_string.is_none() {
        let text = |length: i64| json!("a".repeat(usize::try_from(length).unwrap()));
        if let Some(most) = schema.max_length {
            push(
                text(most),
                text(most + 1),
                format!("Too long: may not be more than {most} "),
            );
        }
        if let Some(least) = schema.min_length {
            push(text(least), text(least - 1), format!("at least {least} chars"));
        }
    }
    if let Some(most) = schema.max_properties {
        let map = |size: i64| Value::Object((0..size).map(|n| (format!("example.com/{n}"), json!("1"))).collect());
        push(map(most), map(most + 1), format!("must have at most {most} items"));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        let element = |n: i64| match pointer.rsplit('/').next().unwrap() {
            // Of a claim, and of a policy: what the one does not know it does not look at.
            "groups" => {
                let name = format!("g{n}");
                json!({"name": name, "count": 1, "path": name, "tier": "prod"})
            }
            "tolerations" => json!({"key": format!("k{n}"), "operator": "Exists"}),
            "quotas" => {
                let tier = ["prod", "mid", "batch", "prod"][usize::try_from(n).unwrap()];
                json!({ "tier": tier })
            }
            _ => json!(format!("n{n}")),
        };
        let list = |size: i64| json!((0..size).map(element).collect::<Vec<_>>());
        if let Some(most) = schema.max_items {
            push(list(most), list(most + 1), format!("must have at most {most} items"));
        }
        if let Some(least) = schema.min_items {
            push(list(least), list(least - 1), format!("at least {least} items"));
        }
        if !pointer.ends_with("/tolerations") {
            bounds(&format!("{pointer}/0"), item, found);
        }
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &schema.additional_properties {
        // The full objects have the key `a` in maps of texts; amounts are in the tables.
        if value.type_.as_deref() == Some("string") {
            bounds(&format!("{pointer}/a"), value, found);
        }
    }
    for (name, field) in schema.properties.iter().flatten() {
        if name != "affinity" {
            bounds(&format!("{pointer}/{name}"), field, found);
        }
    }
}

#[tokio::test]
async fn every_bound_of_a_specification_can_be_reached_and_not_passed() {
    let client = admin(cluster().unwrap()).await.unwrap();
    install_crds(&client).await.unwrap();
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for (kind, full) in FULL {
        let crds = duosuan_crds::all();
        let crd = crds.iter().find(|c| c.spec.names.kind == kind).unwrap();
        let mut found = Vec::new();
        bounds("/spec", &schema(crd).properties.as_ref().unwrap()["spec"], &mut found);
        let whole = json!({"apiVersion": "duosuan.io/v1alpha1", "kind": kind,
            "metadata": {"name": "bounds", "namespace": "default"}, "spec": serde_yaml::from_str::<Value>(full).unwrap()});
        let object: DynamicObject = serde_json::from_value(whole.clone()).unwrap();
        let api = api_of(&client, &object).await.unwrap();
        for bound in found {
            tried += 1;
            let field = bound
                .pointer
                .trim_start_matches('/')
                .replace('/', ".")
                .replace(".0", "[0]");
            let answer = async |value: &Value| {
                let mut changed = whole.clone();
                let place = changed.pointer_mut(&bound.pointer);
                *place.unwrap_or_else(|| panic!("{kind} {field} is not set in the full object")) = value.clone();
                let object: DynamicObject = serde_json::from_value(changed).unwrap();
                let made = api
                    .create(
                        &PostParams {
                            dry_run: true,
                            ..PostParams::default()
                        },
                        &object,
                    )
                    .await;
                // Rules between fields may refuse it too; here only the bound counts.
                made.err().map(|e| e.to_string()).unwrap_or_default()
            };
            let refused = |text: &str| text.contains(&field) && text.contains(&bound.words);
            let (good, bad) = (answer(&bound.reaches).await, answer(&bound.passes).await);
            if refused(&good) {
                wrong.push(format!("{kind} {field}: {:?} cannot be reached: {good}", bound.words));
            }
            if !refused(&bad) {
                wrong.push(format!(
                    "{kind} {field}: {:?} was passed with {}: {bad}",
                    bound.words, bound.passes
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 40, "only {tried} bounds were found");
}

fn messages(schema: &JSONSchemaProps, found: &mut Vec<String>) {
    found.extend(
        schema
            .x_kubernetes_validations
            .iter()
            .flatten()
            .map(|rule| rule.message.clone().unwrap()),
    );
    for field in schema.properties.iter().flat_map(|p| p.values()) {
        messages(field, found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        messages(item, found);
    }
}

#[test]
fn no_rule_is_without_a_case() {
    let mut found = Vec::new();
    for crd in duosuan_crds::all() {
        messages(schema(&crd), &mut found);
    }
    let mut says = Vec::new();
    for text in [
        include_str!("crds/claims.yaml"),
        include_str!("crds/queues.yaml"),
        include_str!("crds/policies.yaml"),
        include_str!("crds/changes.yaml"),
    ] {
        let cases: Vec<Value> = serde_yaml::from_str(text).unwrap();
        says.extend(cases.iter().map(|c| c["says"].as_str().unwrap().to_owned()));
    }
    for message in &found {
        assert!(
            says.iter().any(|words| message.contains(words)),
            "no case provokes: {message}"
        );
    }
    assert!(found.len() > 20, "only {} rules were found", found.len());
}
