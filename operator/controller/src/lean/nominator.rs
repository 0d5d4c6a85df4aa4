//! Whose word the `nominatedNodeName` of a pod is. Of an object's managed fields nothing else is read.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use crate::publish::MANAGER;

/// Whether an operator of ours wrote the `nominatedNodeName` of a pod, this one or one before it.
///
/// Every object has managed fields, so that reading them allocates nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NominatedByUs(pub(super) bool);

impl<'de> Deserialize<'de> for NominatedByUs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = NominatedByUs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("managed fields")
            }

            fn visit_unit<E>(self) -> Result<NominatedByUs, E> {
                Ok(NominatedByUs(false))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<NominatedByUs, A::Error> {
                let mut by_us = false;
                while let Some(entry) = entries.next_element::<Entry>()? {
                    let status = entry.fields.and_then(|fields| fields.status);
                    let nominated = status.is_some_and(|status| status.nominated.is_some());
                    by_us |= nominated && entry.manager.is_some_and(|manager| manager.0);
                }
                Ok(NominatedByUs(by_us))
            }
        }

        deserializer.deserialize_any(Entries)
    }
}

/// What one manager wrote.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    manager: Option<Us>,
    #[serde(rename = "fieldsV1")]
    fields: Option<Fields>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    #[serde(rename = "f:status")]
    status: Option<StatusFields>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StatusFields {
    #[serde(rename = "f:nominatedNodeName")]
    nominated: Option<IgnoredAny>,
}

/// Whether a manager has the name of ours.
struct Us(bool);

impl<'de> Deserialize<'de> for Us {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = Us;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a manager")
            }

            fn visit_str<E>(self, name: &str) -> Result<Us, E> {
                Ok(Us(name == MANAGER))
            }
        }

        deserializer.deserialize_str(Name)
    }
}
