//! Dynamic resource allocation: slices, classes and claims.

use std::collections::BTreeMap;

use duosuan_scheduler::event::{
    AllocatedDevice, Capacity, DeviceAllocation, DeviceConstraint, Reach, Steps, Taint, Toleration,
};

use super::{FieldError, expression::Seen, placement, quantity::thousandths};
use crate::lean::{self, Object, controller, dra};

pub use result::{allocation_result, same_devices};

mod result;

/// Annotation of the claims that are made for pods from templates.
const MADE_FOR_A_POD: &str = "resource.kubernetes.io/pod-claim-name";

/// Devices that a claim has at most, as the API server has it.
const MOST_DEVICES: u32 = 32;

/// A slice of a pool.
#[derive(Clone, Debug, Default)]
pub struct Slice {
    /// Its name.
    pub name: String,
    /// Name of the driver.
    pub driver: String,
    /// Name of the pool.
    pub pool: String,
    /// Generation of the pool.
    pub generation: i64,
    /// Slices that the pool has in that generation.
    pub slices: i64,
    /// Its devices.
    pub devices: Vec<Device>,
    /// Counters by `set/counter`, in thousandths.
    pub counters: BTreeMap<String, i64>,
}

/// A device, before it is known which selectors mean it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What selectors see.
    pub seen: Seen,
    /// From where it can be used.
    pub reach: Reach,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Capacity, in thousandths.
    pub capacity: BTreeMap<String, Capacity>,
    /// What it takes from counters, in thousandths.
    pub consumes: BTreeMap<String, i64>,
    /// Why it cannot be had by this scheduler.
    pub unsupported: Option<String>,
}

/// A class of devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Expressions all of which mean its devices.
    pub expressions: Vec<String>,
    /// What allocations by it carry along.
    pub config: Vec<serde_json::Value>,
}

/// A claim to devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Version, if it is a number.
    pub version: Option<u64>,
    /// UID of the pod that it was made for from a template.
    pub owner: Option<String>,
    /// What it asks for, if that can be understood and honoured.
    pub asks: Result<Asks, FieldError>,
    /// What it has.
    pub allocation: Option<DeviceAllocation>,
    /// UIDs of those who may use it.
    pub reserved: Vec<String>,
    /// It is being deleted.
    pub deleting: bool,
}

/// What a claim asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asks {
    /// Name, and the alternatives.
    pub requests: Vec<(String, Vec<Alternative>)>,
    /// Constraints.
    pub constraints: Vec<DeviceConstraint>,
}

/// An alternative of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alternative {
    /// What it is called in the allocation.
    pub name: String,
    /// Name of the class.
    pub class: String,
    /// Expressions all of which mean its devices.
    pub expressions: Vec<String>,
    /// How many; `None` for all.
    pub count: Option<u32>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Capacity, in thousandths.
    pub capacity: BTreeMap<String, i64>,
}

/// Domain and name of an attribute or a capacity: without a domain it is the driver's own.
fn qualified(name: &str, driver: &str) -> (String, String) {
    match name.split_once('/') {
        Some((domain, id)) => (domain.to_owned(), id.to_owned()),
        None => (driver.to_owned(), name.to_owned()),
    }
}

/// An attribute as a text that equal values alone have.
pub(crate) fn attribute_text(attribute: &dra::Attribute) -> Option<String> {
    let dra::Attribute {
        int,
        bool,
        string,
        version,
    } = attribute;
    let int = int.map(|value| format!("int:{value}"));
    let bool = bool.map(|value| format!("bool:{value}"));
    let string = string.as_ref().map(|value| format!("string:{value}"));
    int.or(bool)
        .or(string)
        .or(version.as_ref().map(|value| format!("version:{value}")))
}

/// A slice.
///
/// # Errors
///
/// If an amount or a node selector of it cannot be understood.
pub fn slice(object: Object<lean::ResourceSlice>) -> Result<Slice, FieldError> {
    let spec = object.spec;
    let mut devices = Vec::with_capacity(spec.devices.len());
    for (i, from) in spec.devices.iter().enumerate() {
        let place = if spec.per_device_node_selection {
            &from.place
        } else {
            &spec.place
        };
        let device = device(from, place, &spec.driver).map_err(|error| error.within(&format!("spec.devices[{i}]")))?;
        devices.push(device);
    }
    Ok(Slice {
        name: object.metadata.name.unwrap_or_default(),
        counters: counters(&spec.shared_counters, |set| &set.name).map_err(|e| e.within("spec.sharedCounters"))?,
        driver: spec.driver,
        pool: spec.pool.name,
        generation: spec.pool.generation,
        slices: spec.pool.resource_slice_count,
        devices,
    })
}

fn counters(
    sets: &[dra::CounterSet],
    name_of: impl Fn(&dra::CounterSet) -> &String,
) -> Result<BTreeMap<String, i64>, FieldError> {
    let mut all = BTreeMap::new();
    for set in sets {
        for (name, counter) in set.counters.iter().flatten() {
            let amount = amount(&counter.value, || format!("{}.counters[{name}].value", name_of(set)))?;
            all.insert(format!("{}/{name}", name_of(set)), amount);
        }
    }
    Ok(all)
}

fn amount(text: &str, field: impl FnOnce() -> String) -> Result<i64, FieldError> {
    match thousandths(text) {
        Ok(value) if value >= 0 => Ok(value),
        Ok(_) => Err(FieldError::new(field(), format!("{text} is below zero"))),
        Err(error) => Err(FieldError::new(field(), error.to_string())),
    }
}

fn reach(place: &dra::Place) -> Result<Reach, FieldError> {
    Ok(match place {
        dra::Place {
            node_name: Some(name), ..
        } if !name.is_empty() => Reach::Node(name.clone()),
        dra::Place {
            all_nodes: Some(true), ..
        } => Reach::Everywhere,
        dra::Place {
            node_selector: Some(selector),
            ..
        } => Reach::Nodes(placement::node_terms(None, Some(selector))?),
        _ => Reach::Nodes(Vec::new()),
    })
}

fn device(from: &dra::Device, place: &dra::Place, driver: &str) -> Result<Device, FieldError> {
    let unsupported = [
        ("bindingConditions", !from.binding_conditions.is_empty()),
        // Once allocated it belongs to one node, which nothing here says.
        (
            "bindsToNode",
            from.binds_to_node == Some(true) && place.node_name.is_none(),
        ),
        (
            "nodeAllocatableResourceMappings",
            from.node_allocatable_resource_mappings.is_some(),
        ),
        ("compatibilityGroups", from.compatibility_groups.is_some()),
    ];
    let unsupported = unsupported.into_iter().find(|(_, there)| *there);
    let mut capacity = BTreeMap::new();
    for (name, from) in from.capacity.iter().flatten() {
        let of = capacity_of(from).map_err(|error| error.within(&format!("capacity[{name}]")))?;
        capacity.insert(name.clone(), of);
    }
    let attributes = from.attributes.iter().flatten();
    let written = from.capacity.iter().flatten();
    let taints = from.taints.iter().map(|taint| Taint {
        key: taint.key.clone(),
        value: taint.value.clone().unwrap_or_default(),
        effect: taint.effect.clone(),
    });
    Ok(Device {
        name: from.name.clone(),
        seen: Seen {
            driver: driver.to_owned(),
            shared: from.allow_multiple_allocations == Some(true),
            attributes: attributes
                .map(|(name, value)| (qualified(name, driver), value.clone()))
                .collect(),
            capacity: written
                .map(|(name, of)| (qualified(name, driver), of.value.clone()))
                .collect(),
        },
        reach: reach(place)?,
        taints: taints.collect(),
        capacity,
        consumes: counters(&from.consumes_counters, |set| &set.counter_set)
            .map_err(|e| e.within("consumesCounters"))?,
        unsupported: unsupported.map(|(field, _)| format!("it has {field}, which this scheduler does not honour")),
    })
}

fn capacity_of(from: &dra::Capacity) -> Result<Capacity, FieldError> {
    let of = |text: &Option<String>, field: &str| {
        let amount = text
            .as_ref()
            .map(|text| amount(text, || format!("requestPolicy.{field}")));
        amount.transpose()
    };
    let policy = from.request_policy.clone().unwrap_or_default();
    let steps = match &policy.valid_range {
        Some(range) if range.min.is_some() => Some(Steps::Range {
            min: of(&range.min, "validRange.min")?.unwrap_or(0),
            max: of(&range.max, "validRange.max")?,
            step: of(&range.step, "validRange.step")?,
        }),
        _ if !policy.valid_values.is_empty() => {
            let values = policy.valid_values.iter();
            let values = values.map(|text| amount(text, || "requestPolicy.validValues".to_owned()));
            Some(Steps::Values(values.collect::<Result<_, _>>()?))
        }
        _ => None,
    };
    Ok(Capacity {
        value: amount(&from.value, || "value".to_owned())?,
        default: of(&policy.default, "default")?,
        steps,
    })
}

/// A class.
///
/// # Errors
///
/// If a selector of it is of an unknown kind.
pub fn class(object: Object<lean::DeviceClass>) -> Result<Class, FieldError> {
    Ok(Class {
        name: object.metadata.name.unwrap_or_default(),
        expressions: expressions(&object.spec.selectors, "spec")?,
        config: object.spec.config,
    })
}

fn expressions(selectors: &[dra::Selector], within: &str) -> Result<Vec<String>, FieldError> {
    let each = selectors.iter().enumerate().map(|(i, selector)| {
        let cel = selector.cel.as_ref().map(|cel| cel.expression.clone());
        cel.ok_or_else(|| {
            FieldError::new(
                format!("{within}.selectors[{i}]"),
                "has no cel, and nothing else is known",
            )
        })
    });
    each.collect()
}

/// A claim.
pub fn claim(object: Object<lean::ResourceClaim>) -> Claim {
    let (meta, spec, status) = (object.metadata, object.spec, object.status);
    Claim {
        // A claim that somebody made by its own name is for all that name it, whatever controls it.
        owner: meta
            .annotations
            .as_ref()
            .filter(|annotations| annotations.contains_key(MADE_FOR_A_POD))
            .and_then(|_| controller(&meta))
            .map(str::to_owned),
        asks: asks(&spec.devices),
        allocation: allocation_of(&status),
        reserved: status.reserved_for.into_iter().map(|consumer| consumer.uid).collect(),
        deleting: meta.deletion_timestamp.is_some(),
        version: meta.resource_version.and_then(|version| version.parse().ok()),
        namespace: meta.namespace.unwrap_or_default(),
        name: meta.name.unwrap_or_default(),
        uid: meta.uid.unwrap_or_default(),
    }
}

/// What a claim has, by its status.
pub fn allocation_of(status: &dra::ResourceClaimStatus) -> Option<DeviceAllocation> {
    let allocation = status.allocation.as_ref()?;
    Some(DeviceAllocation {
        devices: allocation.devices.results.iter().filter_map(allocated).collect(),
        // What cannot be understood lets it be used nowhere.
        nodes: placement::node_terms(None, allocation.node_selector.as_ref()).unwrap_or_else(|_| vec![Vec::new()]),
    })
}

/// A device that a claim has; `None` for one that it has beside others, for administration.
fn allocated(from: &dra::AllocatedDevice) -> Option<AllocatedDevice> {
    let share = from.share_id.is_some() || from.consumed_capacity.is_some();
    let consumed = from.consumed_capacity.iter().flatten();
    let consumed = consumed.map(|(name, text)| (name.clone(), thousandths(text).unwrap_or(i64::MAX)));
    (from.admin_access != Some(true)).then(|| AllocatedDevice {
        request: from.request.clone(),
        driver: from.driver.clone(),
        pool: from.pool.clone(),
        device: from.device.clone(),
        share: share.then(|| consumed.collect()),
    })
}

fn asks(devices: &dra::ClaimedDevices) -> Result<Asks, FieldError> {
    let mut requests = Vec::with_capacity(devices.requests.len());
    for (i, request) in devices.requests.iter().enumerate() {
        let field = format!("spec.devices.requests[{i}]");
        let options = match (&request.exactly, request.first_available.as_slice()) {
            (Some(exactly), []) => vec![option(exactly, request.name.clone(), &format!("{field}.exactly"))?],
            (None, alternatives @ [_, ..]) => {
                let each = alternatives.iter().enumerate().map(|(k, alternative)| {
                    let name = format!("{}/{}", request.name, alternative.name);
                    option(alternative, name, &format!("{field}.firstAvailable[{k}]"))
                });
                each.collect::<Result<_, _>>()?
            }
            _ => return Err(FieldError::new(field, "has to have either exactly or firstAvailable")),
        };
        requests.push((request.name.clone(), options));
    }
    // A claim can never have more, whatever is free.
    let least = |(_, options): &(String, Vec<Alternative>)| options.iter().map(|o| o.count.unwrap_or(1)).min();
    let asked = requests.iter().filter_map(least).fold(0, u32::saturating_add);
    if asked > MOST_DEVICES {
        let problem = format!("ask for {asked} devices, and a claim has {MOST_DEVICES} at most: use several claims");
        return Err(FieldError::new("spec.devices.requests".to_owned(), problem));
    }
    let mut constraints = Vec::with_capacity(devices.constraints.len());
    for (i, constraint) in devices.constraints.iter().enumerate() {
        let (attribute, distinct) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(attribute), None) => (attribute, false),
            (None, Some(attribute)) => (attribute, true),
            _ => {
                let field = format!("spec.devices.constraints[{i}]");
                return Err(FieldError::new(
                    field,
                    "has to have either matchAttribute or distinctAttribute",
                ));
            }
        };
        constraints.push(DeviceConstraint {
            requests: constraint.requests.clone(),
            attribute: attribute.clone(),
            distinct,
        });
    }
    Ok(Asks { requests, constraints })
}

fn option(from: &dra::ExactRequest, name: String, field: &str) -> Result<Alternative, FieldError> {
    let refuse = |part: &str, problem: &str| Err(FieldError::new(format!("{field}.{part}"), problem));
    if from.admin_access == Some(true) {
        return refuse(
            "adminAccess",
            "is not supported: this scheduler allocates devices for use alone",
        );
    }
    if !from.derived_attributes.is_empty() {
        return refuse("derivedAttributes", "is not supported");
    }
    let count = match (
        from.allocation_mode.as_deref().unwrap_or("ExactCount"),
        from.count.unwrap_or(1),
    ) {
        ("All", _) => None,
        ("ExactCount", count @ 1..) => Some(u32::try_from(count).unwrap_or(u32::MAX)),
        ("ExactCount", _) => return refuse("count", "has to be 1 or more"),
        (_, _) => return refuse("allocationMode", "is none of ExactCount and All"),
    };
    let mut capacity = BTreeMap::new();
    for (name, text) in from.capacity.iter().filter_map(|c| c.requests.as_ref()).flatten() {
        let asked = amount(text, || format!("{field}.capacity.requests[{name}]"))?;
        capacity.insert(name.clone(), asked);
    }
    Ok(Alternative {
        name,
        class: from.device_class_name.clone(),
        expressions: expressions(&from.selectors, field)?,
        count,
        tolerations: from.tolerations.iter().map(placement::toleration).collect(),
        capacity,
    })
}

/// The claims that a pod of this name uses, by name. One that was not made for it yet goes by a name that no claim has.
pub fn claims_of(spec: &lean::PodSpec, status: &lean::PodStatus) -> Vec<String> {
    let name_of = |used: &dra::PodResourceClaim| {
        if let Some(name) = &used.resource_claim_name {
            return Some(name.clone());
        }
        let made = status
            .resource_claim_statuses
            .iter()
            .find(|made| made.name == used.name);
        match made {
            // It turned out that none is needed.
            Some(made) => made.resource_claim_name.clone(),
            None => {
                let template = used.resource_claim_template_name.as_deref().unwrap_or_default();
                Some(format!("{} (of ResourceClaimTemplate {template})", used.name))
            }
        }
    };
    spec.resource_claims.iter().filter_map(name_of).collect()
}

/// A claim of a pod that is of a kind that is not known.
pub fn undecided(spec: &lean::PodSpec) -> Option<FieldError> {
    let unknown = |used: &&dra::PodResourceClaim| {
        used.resource_claim_name.is_none() && used.resource_claim_template_name.is_none()
    };
    let of_group = |used: &&dra::PodResourceClaim| used.pod_group_resource_claim.is_some();
    let (position, _) = spec
        .resource_claims
        .iter()
        .enumerate()
        .find(|(_, used)| of_group(used) || unknown(used))?;
    Some(FieldError::new(
        format!("spec.resourceClaims[{position}]"),
        "names neither a resourceClaimName nor a resourceClaimTemplateName, and no other claims are allocated",
    ))
}
