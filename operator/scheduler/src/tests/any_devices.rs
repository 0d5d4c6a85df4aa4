//! Any devices and claims: the search for devices finds an allocation exactly where there is one, and nothing is had twice.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{
    Cluster, Event,
    event::{
        Capacity, DeviceAllocation, DeviceClaim, DeviceClaimSpec, DeviceConstraint, DeviceOption, DevicePool,
        DeviceRequest, Node, PoolDevice, Reach,
    },
    tests::{
        device_claims::{device, pool},
        fixtures::{World, node, pod},
    },
};

fn any_device() -> impl Strategy<Value = PoolDevice> {
    let selectors = prop::collection::btree_set(1_u32..3, 0..3);
    let attribute = prop::option::weighted(0.8, 0..2_u8);
    let capacity = prop::option::of(1..4_i64);
    (selectors, attribute, any::<bool>(), capacity, 0..3_i64).prop_map(
        |(selectors, attribute, shared, capacity, slices)| PoolDevice {
            selectors: selectors.into_iter().collect(),
            attributes: attribute
                .map(|a| ("d/bus".to_owned(), format!("i:{a}")))
                .into_iter()
                .collect(),
            shared: shared && capacity.is_some(),
            capacity: capacity
                .map(|value| {
                    let default = Some(1);
                    (
                        "mem".to_owned(),
                        Capacity {
                            value,
                            default,
                            steps: None,
                        },
                    )
                })
                .into_iter()
                .collect(),
            consumes: (slices > 0)
                .then(|| ("card/slices".to_owned(), slices))
                .into_iter()
                .collect(),
            ..device("", "n")
        },
    )
}

fn any_pool() -> impl Strategy<Value = DevicePool> {
    (prop::collection::vec(any_device(), 1..6), 0..6_i64).prop_map(|(devices, slices)| {
        let named = devices.into_iter().enumerate().map(|(i, device)| PoolDevice {
            name: format!("d{i}"),
            ..device
        });
        DevicePool {
            counters: [("card/slices".to_owned(), slices)].into(),
            ..pool("n", named.collect())
        }
    })
}

fn any_option() -> impl Strategy<Value = DeviceOption> {
    let count = prop_oneof![4 => (1..4_u32).prop_map(Some), 1 => Just(None)];
    (1..3_u32, count, prop::option::weighted(0.3, 1..3_i64)).prop_map(|(selector, count, mem)| DeviceOption {
        selector,
        count,
        capacity: mem.map(|amount| ("mem".to_owned(), amount)).into_iter().collect(),
        ..Default::default()
    })
}

fn any_spec() -> impl Strategy<Value = DeviceClaimSpec> {
    let requests = prop::collection::vec(prop::collection::vec(any_option(), 1..3), 1..3);
    let constraint = prop::option::weighted(0.4, (any::<bool>(), prop::option::of(0..2_usize)));
    (requests, constraint).prop_map(|(requests, constraint)| {
        let named = requests.into_iter().enumerate().map(|(i, options)| {
            let one = options.len() == 1;
            let options = options.into_iter().enumerate().map(|(k, option)| DeviceOption {
                name: if one { format!("r{i}") } else { format!("r{i}/{k}") },
                ..option
            });
            DeviceRequest {
                name: format!("r{i}"),
                options: options.collect(),
            }
        });
        let constraints = constraint.map(|(distinct, about)| DeviceConstraint {
            requests: about.map(|i| format!("r{i}")).into_iter().collect(),
            attribute: "d/bus".into(),
            distinct,
        });
        DeviceClaimSpec {
            requests: named.collect(),
            constraints: constraints.into_iter().collect(),
        }
    })
}

/// What is left of the devices of the only pool, and of its counters.
#[derive(Clone)]
struct Left {
    free: Vec<bool>,
    used: Vec<bool>,
    mem: Vec<i64>,
    slices: i64,
}

impl Left {
    fn of(pool: &DevicePool) -> Left {
        Left {
            free: vec![true; pool.devices.len()],
            used: vec![false; pool.devices.len()],
            mem: pool
                .devices
                .iter()
                .map(|d| d.capacity.get("mem").map_or(0, |c| c.value))
                .collect(),
            slices: pool.counters["card/slices"],
        }
    }

    /// Takes a device for an option, if it can be had at all.
    fn take(&mut self, pool: &DevicePool, option: &DeviceOption, i: usize) -> bool {
        let device = &pool.devices[i];
        let asked = option.capacity.get("mem").copied();
        if asked.is_some() && device.capacity.is_empty() {
            return false;
        }
        let amount = if device.capacity.is_empty() {
            0
        } else {
            asked.unwrap_or(1)
        };
        if !self.free[i] || !device.selectors.contains(&option.selector) || amount > self.mem[i] {
            return false;
        }
        if !self.used[i] {
            self.slices -= device.consumes.get("card/slices").copied().unwrap_or(0);
        }
        self.used[i] = true;
        if device.shared {
            self.mem[i] -= amount;
        } else {
            self.free[i] = false;
        }
        self.slices >= 0
    }
}

/// True if there is a way, found by trying every choice of devices for every choice of alternatives. What is chosen is
/// judged only when all is chosen.
fn brute(pool: &DevicePool, specs: &[DeviceClaimSpec]) -> bool {
    let requests: Vec<(usize, &DeviceRequest)> = specs
        .iter()
        .enumerate()
        .flat_map(|(c, s)| s.requests.iter().map(move |r| (c, r)))
        .collect();
    let mut chosen = Vec::new();
    choose(pool, specs, &requests, &mut chosen)
}

type Chosen<'a> = Vec<(usize, &'a DeviceRequest, &'a DeviceOption, Vec<usize>)>;

fn choose<'a>(
    pool: &DevicePool,
    specs: &[DeviceClaimSpec],
    rest: &[(usize, &'a DeviceRequest)],
    chosen: &mut Chosen<'a>,
) -> bool {
    let Some(((claim, request), rest)) = rest.split_first() else {
        return judge(pool, specs, chosen);
    };
    for option in &request.options {
        let all = 1_u32 << pool.devices.len();
        let meant: Vec<usize> = (0..pool.devices.len())
            .filter(|i| {
                Left::of(&DevicePool {
                    counters: [("card/slices".to_owned(), i64::MAX)].into(),
                    ..pool.clone()
                })
                .take(pool, option, *i)
            })
            .collect();
        for set in 1..all {
            let devices: Vec<usize> = (0..pool.devices.len()).filter(|i| set & (1 << i) != 0).collect();
            let right = match option.count {
                Some(count) => devices.len() == count as usize,
                None => devices == meant,
            };
            if !right {
                continue;
            }
            chosen.push((*claim, request, option, devices));
            let found = choose(pool, specs, rest, chosen);
            chosen.pop();
            if found {
                return true;
            }
        }
    }
    false
}

fn judge(pool: &DevicePool, specs: &[DeviceClaimSpec], chosen: &Chosen<'_>) -> bool {
    let mut left = Left::of(pool);
    let taken = chosen
        .iter()
        .all(|(_, _, option, devices)| devices.iter().all(|i| left.take(pool, option, *i)));
    taken
        && specs.iter().enumerate().all(|(claim, spec)| {
            spec.constraints.iter().all(|constraint| {
                let about = chosen.iter().filter(|(c, request, ..)| {
                    *c == claim && (constraint.requests.is_empty() || constraint.requests.contains(&request.name))
                });
                let devices = about.flat_map(|(.., devices)| devices);
                let values: Option<Vec<&String>> = devices.map(|i| pool.devices[*i].attributes.get("d/bus")).collect();
                values.is_some_and(|mut values| {
                    let count = values.len();
                    values.sort();
                    values.dedup();
                    if constraint.distinct {
                        values.len() == count
                    } else {
                        values.len() <= 1
                    }
                })
            })
        })
}

fn claim(name: &str, spec: DeviceClaimSpec) -> DeviceClaim {
    DeviceClaim {
        uid: format!("{name}-uid"),
        namespace: "ns".into(),
        name: name.into(),
        spec,
        ..Default::default()
    }
}

/// Pod and node of a binding, and what its claims, by number, are to have.
type Open = (String, String, Vec<(usize, DeviceAllocation)>);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn an_allocation_is_found_exactly_where_there_is_one(
        pool in any_pool(),
        specs in prop::collection::vec(any_spec(), 1..3),
    ) {
        let mut world = World::with([node("n", 4).into(), pool.clone().into()]);
        let names: Vec<String> = (0..specs.len()).map(|i| format!("c{i}")).collect();
        for (name, spec) in names.iter().zip(&specs) {
            world.tell(claim(name, spec.clone()));
        }
        world.tell(crate::event::Pod { device_claims: names, ..pod("p", 1) });
        let bound = world.cycle().iter().any(|d| matches!(d, crate::Decision::Bind { .. }));
        prop_assert_eq!(bound, brute(&pool, &specs));
    }

    /// In any order of events, and whatever becomes of the bindings: the invariants hold, and at the end of everything
    /// nothing is left. (The cluster checks itself after each cycle: no device twice, no more of one than there is.)
    #[test]
    fn whatever_happens_nothing_is_had_twice(
        pools in prop::collection::vec(any_pool(), 1..3),
        happens in prop::collection::vec((0..9_u8, 0..4_usize, any_spec()), 1..40),
    ) {
        let mut cluster = Cluster::default();
        let tell = |cluster: &mut Cluster, event: Event| cluster.apply(event);
        let named = |i: usize| -> (Node, DevicePool) {
            let name = format!("n{i}");
            let mut pool = pools[i % pools.len()].clone();
            pool.pool = name.clone();
            for device in &mut pool.devices {
                device.reach = Reach::Node(name.clone());
            }
            if i == 1 {
                pool.devices[0].reach = Reach::Everywhere;
            }
            (node(&name, 4), pool)
        };
        for i in 0..2 {
            let (node, pool) = named(i);
            tell(&mut cluster, node.into());
            tell(&mut cluster, pool.into());
        }
        // What the API server has of each claim, and which pods wait to hear of their bindings.
        let mut claims: BTreeMap<usize, DeviceClaim> = BTreeMap::new();
        let mut open: Vec<Open> = Vec::new();
        for (what, i, spec) in happens {
            let name = format!("c{i}");
            match what {
                0 => {
                    let known = claims.entry(i).or_insert_with(|| claim(&name, spec));
                    tell(&mut cluster, known.clone().into());
                }
                1 | 2 => {
                    let mut names = vec![name];
                    if what == 2 {
                        names.push(format!("c{}", (i + 1) % 4));
                    }
                    tell(&mut cluster, crate::event::Pod { device_claims: names, ..pod(&format!("p{what}{i}"), 1) }.into());
                }
                3 => tell(&mut cluster, Event::PodGone(format!("p1{i}"))),
                4 if claims.remove(&i).is_some() => {
                    tell(&mut cluster, Event::DeviceClaimGone { namespace: "ns".into(), name });
                }
                5 => {
                    let (_, mut pool) = named(i % 2);
                    pool.devices.truncate(1 + i);
                    tell(&mut cluster, pool.into());
                }
                6 => if let Some((pod, node, written)) = open.pop() {
                    // The claims were written, if they still stood open, and the pod may be bound then or not.
                    for (claim, allocation) in written {
                        if let Some(known) = claims.get_mut(&claim) {
                            known.allocation.get_or_insert(allocation);
                            known.reserved.push(pod.clone());
                            tell(&mut cluster, known.clone().into());
                        }
                    }
                    if i % 2 == 0 {
                        tell(&mut cluster, Event::BindFailed { pod, node, message: "no".into(), lasting: false });
                    }
                },
                7 => if let Some((pod, node, _)) = open.pop() {
                    tell(&mut cluster, Event::BindFailed { pod, node, message: "no".into(), lasting: false });
                },
                8 => if let Some(known) = claims.get_mut(&i) {
                    known.allocation = None;
                    known.reserved.clear();
                    tell(&mut cluster, known.clone().into());
                },
                _ => {}
            }
            prop_assert_eq!(cluster.check(), Ok(()));
            for decision in crate::cycle(&mut cluster, crate::Time(0), crate::Budget::default()) {
                if let crate::Decision::Bind { pod, node, allocations, .. } = decision {
                    let written = allocations.into_iter().map(|a| (a.claim[1..].parse().unwrap(), a.allocation));
                    open.push((pod, node, written.collect()));
                }
            }
            prop_assert_eq!(cluster.check(), Ok(()));
        }
        for i in 0..4 {
            tell(&mut cluster, Event::PodGone(format!("p1{i}")));
            tell(&mut cluster, Event::PodGone(format!("p2{i}")));
            tell(&mut cluster, Event::DeviceClaimGone { namespace: "ns".into(), name: format!("c{i}") });
            tell(&mut cluster, Event::DevicePoolGone { driver: "gpu.example.com".into(), pool: format!("n{i}") });
        }
        prop_assert_eq!(cluster.check(), Ok(()));
        prop_assert!(cluster.model.dra.is_empty());
    }
}
