//! How the objects of each kind become facts.

use std::borrow::Cow;

use tracing::warn;

use super::{Fact, Watched};
use crate::{
    lean::{self, Kind, Object},
    translate::{FieldError, claim, node, pod, pod_group, policy, queue, relations, volume},
};

impl Watched for lean::Pod {
    const GROUP: &'static str = <Self as Kind>::GROUP;
    const KIND: &'static str = <Self as Kind>::KIND;
    type Read = Object<Self>;
    fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
        object.metadata.uid.as_deref().map(Cow::from)
    }
    fn fact(object: Object<Self>, scheduler_name: &str) -> Result<Fact, FieldError> {
        Ok(Fact::Pod(Box::new(pod::read(&object, scheduler_name))))
    }
    fn gone(key: String) -> Fact {
        Fact::PodGone(key)
    }
}

impl Watched for lean::Namespace {
    const GROUP: &'static str = <Self as Kind>::GROUP;
    const KIND: &'static str = <Self as Kind>::KIND;
    type Read = Object<Self>;
    fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
        object.metadata.name.as_deref().map(Cow::from)
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        Ok(Fact::Namespace(Box::new(relations::namespace(&object))))
    }
    fn gone(key: String) -> Fact {
        Fact::NamespaceGone(key)
    }
}

impl Watched for lean::Node {
    const GROUP: &'static str = <Self as Kind>::GROUP;
    const KIND: &'static str = <Self as Kind>::KIND;
    type Read = Object<Self>;
    fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
        object.metadata.name.as_deref().map(Cow::from)
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        let (node, broken) = node::read(&object);
        for error in broken {
            warn!(node = node.name, %error, "a resource of a node is left out");
        }
        Ok(Fact::Node(Box::new(node)))
    }
    fn gone(key: String) -> Fact {
        Fact::NodeGone(key)
    }
}

impl Watched for lean::Report {
    const GROUP: &'static str = <Self as Kind>::GROUP;
    const KIND: &'static str = <Self as Kind>::KIND;
    type Read = Object<Self>;
    fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
        object.metadata.name.as_deref().map(Cow::from)
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        let name = object.metadata.name.clone().unwrap_or_default();
        Ok(Fact::Report(name, Box::new(node::report(object)?)))
    }
    fn gone(key: String) -> Fact {
        Fact::ReportGone(key)
    }
}

impl Watched for lean::Claim {
    const GROUP: &'static str = <Self as Kind>::GROUP;
    const KIND: &'static str = <Self as Kind>::KIND;
    type Read = Object<Self>;
    fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
        object.metadata.uid.as_deref().map(Cow::from)
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        Ok(Fact::Claim(Box::new(claim::read(object))))
    }
    fn gone(key: String) -> Fact {
        Fact::ClaimGone(key)
    }
}

impl Watched for lean::PodGroup {
    const GROUP: &'static str = <Self as Kind>::GROUP;
    const KIND: &'static str = <Self as Kind>::KIND;
    const OPTIONAL: bool = true;
    type Read = Object<Self>;
    fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
        object.metadata.uid.as_deref().map(Cow::from)
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        Ok(Fact::PodGroup(Box::new(pod_group::read(&object))))
    }
    fn gone(key: String) -> Fact {
        Fact::PodGroupGone(key)
    }
}

impl Watched for lean::Queue {
    const GROUP: &'static str = <Self as Kind>::GROUP;
    const KIND: &'static str = <Self as Kind>::KIND;
    type Read = Object<Self>;
    fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
        object.metadata.name.as_deref().map(Cow::from)
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        Ok(Fact::Queue(Box::new(queue::read(object)?)))
    }
    fn gone(key: String) -> Fact {
        Fact::QueueGone(key)
    }
}

impl Watched for lean::Policy {
    const GROUP: &'static str = <Self as Kind>::GROUP;
    const KIND: &'static str = <Self as Kind>::KIND;
    type Read = Object<Self>;
    fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
        object.metadata.name.as_deref().map(Cow::from)
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        let name = object.metadata.name.clone().unwrap_or_default();
        Ok(Fact::Policy(name, Box::new(policy::read(object)?)))
    }
    fn gone(key: String) -> Fact {
        Fact::PolicyGone(key)
    }
}

impl Watched for lean::VolumeClaim {
    const GROUP: &'static str = <Self as Kind>::GROUP;
    const KIND: &'static str = <Self as Kind>::KIND;
    type Read = Object<Self>;
    fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
        Some(
            format!(
                "{}/{}",
                object.metadata.namespace.as_deref()?,
                object.metadata.name.as_deref()?
            )
            .into(),
        )
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        Ok(Fact::VolumeClaim(Box::new(volume::claim(object)?)))
    }
    fn gone(key: String) -> Fact {
        Fact::VolumeClaimGone(key)
    }
}

impl Watched for lean::Volume {
    const GROUP: &'static str = <Self as Kind>::GROUP;
    const KIND: &'static str = <Self as Kind>::KIND;
    type Read = Object<Self>;
    fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
        object.metadata.name.as_deref().map(Cow::from)
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        Ok(Fact::Volume(Box::new(volume::volume(object)?)))
    }
    fn gone(key: String) -> Fact {
        Fact::VolumeGone(key)
    }
}

impl Watched for lean::CsiNode {
    const GROUP: &'static str = <Self as Kind>::GROUP;
    const KIND: &'static str = <Self as Kind>::KIND;
    type Read = Object<Self>;
    fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
        object.metadata.name.as_deref().map(Cow::from)
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        Ok(Fact::Attachable(Box::new(volume::attachable(object))))
    }
    fn gone(key: String) -> Fact {
        Fact::AttachableGone(key)
    }
}

impl Watched for lean::StorageClass {
    const GROUP: &'static str = "storage.k8s.io";
    const KIND: &'static str = "StorageClass";
    type Read = Self;
    fn key(object: &Self) -> Option<Cow<'_, str>> {
        object.metadata.name.as_deref().map(Cow::from)
    }
    fn fact(object: Self, _: &str) -> Result<Fact, FieldError> {
        Ok(Fact::StorageClass(Box::new(volume::class(object))))
    }
    fn gone(key: String) -> Fact {
        Fact::StorageClassGone(key)
    }
}
