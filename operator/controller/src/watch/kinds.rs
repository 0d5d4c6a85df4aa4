//! How the objects of each kind become facts.

use tracing::warn;

use super::{Fact, Watched};
use crate::{
    lean::{self, Object},
    translate::{FieldError, claim, node, pod, policy, queue, relations},
};

impl Watched for lean::Pod {
    fn key(object: &Object<Self>) -> Option<&String> {
        object.metadata.uid.as_ref()
    }
    fn fact(object: Object<Self>, scheduler_name: &str) -> Result<Fact, FieldError> {
        Ok(Fact::Pod(Box::new(pod::read(&object, scheduler_name))))
    }
    fn gone(key: String) -> Fact {
        Fact::PodGone(key)
    }
}

impl Watched for lean::Namespace {
    fn key(object: &Object<Self>) -> Option<&String> {
        object.metadata.name.as_ref()
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        Ok(Fact::Namespace(Box::new(relations::namespace(&object))))
    }
    fn gone(key: String) -> Fact {
        Fact::NamespaceGone(key)
    }
}

impl Watched for lean::Node {
    fn key(object: &Object<Self>) -> Option<&String> {
        object.metadata.name.as_ref()
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
    fn key(object: &Object<Self>) -> Option<&String> {
        object.metadata.name.as_ref()
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
    fn key(object: &Object<Self>) -> Option<&String> {
        object.metadata.uid.as_ref()
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        Ok(Fact::Claim(Box::new(claim::read(object))))
    }
    fn gone(key: String) -> Fact {
        Fact::ClaimGone(key)
    }
}

impl Watched for lean::Queue {
    fn key(object: &Object<Self>) -> Option<&String> {
        object.metadata.name.as_ref()
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        Ok(Fact::Queue(Box::new(queue::read(object)?)))
    }
    fn gone(key: String) -> Fact {
        Fact::QueueGone(key)
    }
}

impl Watched for lean::Policy {
    fn key(object: &Object<Self>) -> Option<&String> {
        object.metadata.name.as_ref()
    }
    fn fact(object: Object<Self>, _: &str) -> Result<Fact, FieldError> {
        let name = object.metadata.name.clone().unwrap_or_default();
        Ok(Fact::Policy(name, Box::new(policy::read(object)?)))
    }
    fn gone(key: String) -> Fact {
        Fact::PolicyGone(key)
    }
}
