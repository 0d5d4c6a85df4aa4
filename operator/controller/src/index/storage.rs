//! What the index makes of facts about storage.

use duosuan_scheduler::{Event, Time, event};

use super::Index;
use crate::{translate::volume::Attachable, watch::Fact};

impl Index {
    /// Takes in a fact about storage: what changes for the core are pods and nodes.
    pub(super) fn storage(&mut self, fact: Fact, now: Time, events: &mut Vec<Event>) {
        match fact {
            Fact::VolumeClaim(claim) => {
                let pods = self.volumes.claim(claim.name.clone(), Some(*claim));
                self.seen_anew(pods, events);
            }
            Fact::VolumeClaimGone(key) => {
                let (namespace, name) = key.split_once('/').unwrap_or_default();
                let pods = self.volumes.claim((namespace.to_owned(), name.to_owned()), None);
                self.seen_anew(pods, events);
            }
            Fact::Volume(volume) => {
                let pods = self.volumes.volume(volume.name.clone(), Some(*volume));
                self.seen_anew(pods, events);
            }
            Fact::VolumeGone(name) => {
                let pods = self.volumes.volume(name, None);
                self.seen_anew(pods, events);
            }
            Fact::StorageClass(class) => {
                let pods = self.volumes.class(class.name.clone(), Some(*class));
                self.seen_anew(pods, events);
            }
            Fact::StorageClassGone(name) => {
                let pods = self.volumes.class(name, None);
                self.seen_anew(pods, events);
            }
            Fact::Attachable(attachable) => {
                let node = attachable.node.clone();
                self.attachable(&node, Some(*attachable), now, events);
            }
            Fact::AttachableGone(node) => self.attachable(&node, None, now, events),
            _ => {}
        }
    }

    /// Pods that the core shall see as they are now.
    pub(super) fn seen_anew(&mut self, pods: Vec<event::Pod>, events: &mut Vec<Event>) {
        for pod in pods {
            if let Some(entry) = self.pods.get_mut(&pod.uid)
                && entry.broken != pod.refused
            {
                entry.broken.clone_from(&pod.refused);
                if let Some(claim) = &entry.claim {
                    self.changed_claims.insert((entry.namespace.clone(), claim.clone()));
                }
                self.changed_pods.insert(pod.uid.clone());
            }
            events.push(Event::Pod(Box::new(pod)));
        }
    }

    /// What a node can attach changes.
    fn attachable(&mut self, node: &str, attachable: Option<Attachable>, now: Time, events: &mut Vec<Event>) {
        let (pods, all) = self.volumes.attachable(node, attachable);
        let nodes = if all { self.nodes.names() } else { vec![node.to_owned()] };
        for name in nodes {
            let limits = self.volumes.limits(&name);
            events.extend(self.nodes.attachable(&name, &limits, now));
        }
        self.seen_anew(pods, events);
    }
}
