//! How the objects of each kind become facts.

use std::borrow::Cow;

use duosuan_scheduler::event::Node;
use kube::api::ObjectMeta;
use tracing::warn;

use super::{Fact, Reading, Watched};
use crate::{
    lean::{self, Kind, Object},
    translate::{FieldError, claim, dra, node, pod, pod_group, policy, queue, relations, volume},
};

/// Kinds that are known by one text of their metadata: what an object and its end are to the core.
macro_rules! watched {
    ($($kind:ident by $key:ident: |$object:ident, $reading:tt| $fact:expr, $gone:ident;)*) => {
        $(impl Watched for lean::$kind {
            const GROUP: &'static str = <Self as Kind>::GROUP;
            const KIND: &'static str = <Self as Kind>::KIND;
            type Read = Object<Self>;
            fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
                object.metadata.$key.as_deref().map(Cow::from)
            }
            fn fact($object: Object<Self>, $reading: Reading<'_>) -> Result<Fact, FieldError> {
                Ok($fact)
            }
            fn gone(key: String) -> Fact {
                Fact::$gone(key)
            }
        })*
    };
}

watched! {
    Pod by uid: |object, reading| Fact::Pod(Box::new(pod::read(&object, reading.scheduler_name))), PodGone;
    Namespace by name: |object, _| Fact::Namespace(Box::new(relations::namespace(&object))), NamespaceGone;
    Node by name: |object, _| Fact::Node(Box::new(read_node(&object))), NodeGone;
    Report by name: |object, _| {
        let name = object.metadata.name.clone().unwrap_or_default();
        Fact::Report(name, Box::new(node::report(object)?))
    }, ReportGone;
    Claim by uid: |object, _| Fact::Claim(Box::new(claim::read(object))), ClaimGone;
    Queue by name: |object, _| Fact::Queue(Box::new(queue::read(object)?)), QueueGone;
    Policy by name: |object, _| {
        let name = object.metadata.name.clone().unwrap_or_default();
        Fact::Policy(name, Box::new(policy::read(object)?))
    }, PolicyGone;
    Volume by name: |object, _| Fact::Volume(Box::new(volume::volume(object))), VolumeGone;
    CsiNode by name: |object, _| Fact::Attachable(Box::new(volume::attachable(object))), AttachableGone;
}

fn read_node(object: &Object<lean::Node>) -> Node {
    let (node, broken) = node::read(object);
    for error in broken {
        warn!(node = node.name, %error, "a resource of a node is left out");
    }
    node
}

/// Kinds that most clusters do well without.
macro_rules! optional {
    ($($kind:ident by $key:expr, |$object:ident, $reading:tt| $fact:expr, $gone:ident;)*) => {
        $(impl Watched for lean::$kind {
            const GROUP: &'static str = <Self as Kind>::GROUP;
            const KIND: &'static str = <Self as Kind>::KIND;
            const OPTIONAL: bool = true;
            const OLDER: &'static [&'static str] = <Self as Kind>::OLDER;
            type Read = Object<Self>;
            fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
                $key(&object.metadata)
            }
            fn fact($object: Object<Self>, $reading: Reading<'_>) -> Result<Fact, FieldError> {
                Ok($fact)
            }
            fn gone(key: String) -> Fact {
                Fact::$gone(key)
            }
        })*
    };
}

optional! {
    PodGroup by uid, |object, reading| {
        let version = reading.older.unwrap_or(<Self as Kind>::VERSION);
        Fact::PodGroup(Box::new(pod_group::read(&object, version)))
    }, PodGroupGone;
    ResourceSlice by name, |object, _| Fact::ResourceSlice(Box::new(dra::slice(object)?)), ResourceSliceGone;
    DeviceClass by name, |object, _| Fact::DeviceClass(Box::new(dra::class(object)?)), DeviceClassGone;
    ResourceClaim by namespaced, |object, _| Fact::ResourceClaim(Box::new(dra::claim(object))), ResourceClaimGone;
}

fn uid(meta: &ObjectMeta) -> Option<Cow<'_, str>> {
    meta.uid.as_deref().map(Cow::from)
}

fn name(meta: &ObjectMeta) -> Option<Cow<'_, str>> {
    meta.name.as_deref().map(Cow::from)
}

fn namespaced(meta: &ObjectMeta) -> Option<Cow<'_, str>> {
    Some(format!("{}/{}", meta.namespace.as_deref()?, meta.name.as_deref()?).into())
}

impl Watched for lean::VolumeClaim {
    const GROUP: &'static str = <Self as Kind>::GROUP;
    const KIND: &'static str = <Self as Kind>::KIND;
    type Read = Object<Self>;
    fn key(object: &Object<Self>) -> Option<Cow<'_, str>> {
        namespaced(&object.metadata)
    }
    fn fact(object: Object<Self>, _: Reading<'_>) -> Result<Fact, FieldError> {
        Ok(Fact::VolumeClaim(Box::new(volume::claim(object))))
    }
    fn gone(key: String) -> Fact {
        Fact::VolumeClaimGone(key)
    }
}

impl Watched for lean::StorageClass {
    const GROUP: &'static str = "storage.k8s.io";
    const KIND: &'static str = "StorageClass";
    type Read = Self;
    fn key(object: &Self) -> Option<Cow<'_, str>> {
        object.metadata.name.as_deref().map(Cow::from)
    }
    fn fact(object: Self, _: Reading<'_>) -> Result<Fact, FieldError> {
        Ok(Fact::StorageClass(Box::new(volume::class(object))))
    }
    fn gone(key: String) -> Fact {
        Fact::StorageClassGone(key)
    }
}
