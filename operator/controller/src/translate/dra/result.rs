//! What is written into a claim that gets its devices.

use std::collections::{BTreeMap, BTreeSet};

use duosuan_scheduler::event::{DeviceAllocation, NODE_NAME, Operator, Term};
use serde_json::{Map, Value, json};

/// `status.allocation` of a claim, as it stands in the API server, that gets some devices; `classes` have the configuration
/// of device classes, by name.
pub fn allocation_result(
    claim: &Value,
    allocation: &DeviceAllocation,
    uid: &str,
    classes: &BTreeMap<String, Vec<Value>>,
) -> Value {
    let requests = requests_of(claim, allocation);
    let results = allocation.devices.iter().enumerate().map(|(i, device)| {
        let mut result = json!({
            "request": device.request, "driver": device.driver, "pool": device.pool, "device": device.device,
        });
        let asked = requests.iter().find(|request| request.name == device.request);
        if let Some(tolerations) = asked.and_then(|request| request.spec.get("tolerations")) {
            put(&mut result, "tolerations", tolerations.clone());
        }
        if let Some(share) = &device.share {
            put(&mut result, "shareID", share_id(uid, i).into());
            let consumed: Map<String, Value> = share
                .iter()
                .map(|(name, amount)| (name.clone(), quantity(*amount).into()))
                .collect();
            if !consumed.is_empty() {
                put(&mut result, "consumedCapacity", consumed.into());
            }
        }
        result
    });
    let mut devices = json!({"results": results.collect::<Vec<_>>()});
    let config = config_of(claim, &requests, classes);
    if !config.is_empty() {
        put(&mut devices, "config", config.into());
    }
    let mut all = json!({"devices": devices});
    if let Some(term) = allocation.nodes.first() {
        put(
            &mut all,
            "nodeSelector",
            json!({"nodeSelectorTerms": [selector_term(term)]}),
        );
    }
    all
}

/// True if `status.allocation` of a claim has exactly these devices.
pub fn same_devices(has: &Value, allocation: &DeviceAllocation) -> bool {
    let results = has.pointer("/devices/results").and_then(Value::as_array);
    let text = |result: &Value, field: &str| result.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let has = results.into_iter().flatten();
    let has = has.map(|r| ["request", "driver", "pool", "device"].map(|field| text(r, field)));
    let wants = allocation
        .devices
        .iter()
        .map(|device| [&device.request, &device.driver, &device.pool, &device.device].map(Clone::clone));
    has.eq(wants)
}

fn put(object: &mut Value, field: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.insert(field.to_owned(), value);
    }
}

/// A request of the claim, with the alternative that was had.
struct Request<'a> {
    /// As it stands in the claim.
    of: &'a str,
    /// As it stands in the allocation.
    name: String,
    spec: &'a Value,
}

fn requests_of<'a>(claim: &'a Value, allocation: &DeviceAllocation) -> Vec<Request<'a>> {
    let requests = claim.pointer("/spec/devices/requests").and_then(Value::as_array);
    let chosen = |request: &'a Value| {
        let of = request.get("name")?.as_str()?;
        if let Some(spec) = request.get("exactly") {
            let name = of.to_owned();
            return Some(Request { of, name, spec });
        }
        let alternatives = request.get("firstAvailable")?.as_array()?;
        alternatives.iter().find_map(|spec| {
            let name = format!("{of}/{}", spec.get("name")?.as_str()?);
            let had = allocation.devices.iter().any(|device| device.request == name);
            had.then_some(Request { of, name, spec })
        })
    };
    requests.into_iter().flatten().filter_map(chosen).collect()
}

/// The configuration of the classes, each once, then that of the claim. What is for all requests names none.
fn config_of(claim: &Value, requests: &[Request<'_>], classes: &BTreeMap<String, Vec<Value>>) -> Vec<Value> {
    let mut all: Vec<(&'static str, BTreeSet<String>, Value)> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for request in requests {
        let Some(class) = request.spec.get("deviceClassName").and_then(Value::as_str) else {
            continue;
        };
        if seen.contains(&class) {
            continue;
        }
        seen.push(class);
        let of_class = requests
            .iter()
            .filter(|other| other.spec.get("deviceClassName") == Some(&class.into()));
        let names: BTreeSet<String> = of_class.map(|other| other.name.clone()).collect();
        let configs = classes.get(class).into_iter().flatten();
        all.extend(configs.map(|config| ("FromClass", names.clone(), config.clone())));
    }
    let own = claim.pointer("/spec/devices/config").and_then(Value::as_array);
    for config in own.into_iter().flatten() {
        let named = config.get("requests").and_then(Value::as_array).into_iter().flatten();
        let names: BTreeSet<String> = named.filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        let meant = |request: &&Request<'_>| names.contains(request.of) || names.contains(&request.name);
        if names.is_empty() || requests.iter().any(|request| meant(&request)) {
            all.push(("FromClaim", names, config.clone()));
        }
    }
    let configured = all.into_iter().map(|(source, names, mut config)| {
        put(&mut config, "source", source.into());
        let meant = |request: &Request<'_>| names.contains(request.of) || names.contains(&request.name);
        if names.is_empty() || requests.iter().all(meant) {
            if let Value::Object(fields) = &mut config {
                fields.remove("requests");
            }
        } else {
            put(&mut config, "requests", names.into_iter().collect());
        }
        config
    });
    configured.collect()
}

fn selector_term(term: &Term) -> Value {
    let written = |fields: bool| {
        let chosen = term
            .iter()
            .filter(move |requirement| (requirement.key == NODE_NAME) == fields);
        let each = chosen.map(|requirement| {
            let key = if fields {
                "metadata.name"
            } else {
                requirement.key.as_str()
            };
            json!({"key": key, "operator": operator(requirement.operator), "values": requirement.values})
        });
        each.collect::<Vec<Value>>()
    };
    let mut written_term = json!({});
    for (field, requirements) in [("matchExpressions", written(false)), ("matchFields", written(true))] {
        if !requirements.is_empty() {
            put(&mut written_term, field, requirements.into());
        }
    }
    written_term
}

fn operator(operator: Operator) -> &'static str {
    match operator {
        Operator::In => "In",
        Operator::NotIn => "NotIn",
        Operator::Exists => "Exists",
        Operator::DoesNotExist => "DoesNotExist",
        Operator::Gt => "Gt",
        Operator::Lt => "Lt",
    }
}

/// An amount in thousandths as a quantity.
fn quantity(thousandths: i64) -> String {
    if thousandths % 1000 == 0 {
        (thousandths / 1000).to_string()
    } else {
        format!("{thousandths}m")
    }
}

/// What tells a share of a device from all others of it: made of the claim's UID, which no other claim has, and of the
/// position in it, so that to write it twice does no harm.
fn share_id(uid: &str, position: usize) -> String {
    let hash = |seed: u64| {
        let text = format!("{uid}/{position}");
        // FNV-1a.
        text.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    let (a, b) = (hash(0), hash(0x9e37_79b9_7f4a_7c15));
    // In the form of a UUID of version 8, whose bits are up to whoever makes it.
    format!(
        "{:08x}-{:04x}-8{:03x}-8{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        (b >> 48) & 0xfff,
        b & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use duosuan_scheduler::event::{AllocatedDevice, Requirement};

    use super::*;

    fn device(request: &str, share: Option<i64>) -> AllocatedDevice {
        AllocatedDevice {
            request: request.into(),
            driver: "d".into(),
            pool: "p".into(),
            device: "x".into(),
            share: share.map(|amount| [("mem".to_owned(), amount)].into()),
        }
    }

    #[test]
    fn a_claim_says_what_it_has_with_the_configuration_for_it_and_where() {
        let claim = json!({"spec": {"devices": {
            "requests": [
                {"name": "a", "exactly": {"deviceClassName": "one", "tolerations": [{"key": "k", "operator": "Exists"}]}},
                {"name": "b", "firstAvailable": [
                    {"name": "x", "deviceClassName": "two"}, {"name": "y", "deviceClassName": "one"},
                ]},
            ],
            "config": [
                {"requests": ["b/x"], "opaque": {"driver": "d", "parameters": {"not": "had"}}},
                {"requests": ["a"], "opaque": {"driver": "d", "parameters": {"for": "a"}}},
                {"requests": ["a", "b"], "opaque": {"driver": "d", "parameters": {"for": "all"}}},
            ],
        }}});
        let classes = [
            (
                "one".to_owned(),
                vec![json!({"opaque": {"driver": "d", "parameters": {"of": "one"}}})],
            ),
            (
                "two".to_owned(),
                vec![json!({"opaque": {"driver": "d", "parameters": {"of": "two"}}})],
            ),
        ];
        let here = Requirement {
            key: NODE_NAME.into(),
            operator: Operator::In,
            values: vec!["n".into()],
        };
        let allocation = DeviceAllocation {
            devices: vec![device("a", None), device("b/y", Some(1_500))],
            nodes: vec![vec![here]],
        };
        let id = share_id("u", 1);
        assert_eq!(
            allocation_result(&claim, &allocation, "u", &classes.into()),
            json!({
                "devices": {
                    "results": [
                        {"request": "a", "driver": "d", "pool": "p", "device": "x",
                            "tolerations": [{"key": "k", "operator": "Exists"}]},
                        {"request": "b/y", "driver": "d", "pool": "p", "device": "x",
                            "shareID": id, "consumedCapacity": {"mem": "1500m"}},
                    ],
                    "config": [
                        {"source": "FromClass", "opaque": {"driver": "d", "parameters": {"of": "one"}}},
                        {"source": "FromClaim", "requests": ["a"], "opaque": {"driver": "d", "parameters": {"for": "a"}}},
                        {"source": "FromClaim", "opaque": {"driver": "d", "parameters": {"for": "all"}}},
                    ],
                },
                "nodeSelector": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]},
                ]},
            })
        );
        assert_ne!(id, share_id("u", 2));
    }
}
