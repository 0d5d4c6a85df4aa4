//! What a pod asks of GPUs, and which ones it was given.

use duosuan_crds::{
    ANNOTATION_GPU_MEMORY, ANNOTATION_GPU_MODELS, ANNOTATION_GPU_SHARE, ANNOTATION_GPUS, ANNOTATION_NUMA, RESOURCE_GPU,
    claim::Gpus,
};
use duosuan_scheduler::event::{Amounts, GpuRequest};

use super::{FieldError, quantity};
use crate::lean::Texts;

/// Thousandths of a device that are the whole of it.
const WHOLE: u16 = 1000;

/// What a pod asks for itself: whole devices by resource `nvidia.com/gpu`, or a part of one by annotations.
///
/// # Errors
///
/// If an annotation makes no sense.
pub fn of_pod(annotations: &Texts, requests: &Amounts) -> Result<Option<GpuRequest>, FieldError> {
    let field = |name: &str| format!("metadata.annotations[{name}]");
    let share = annotations.get(ANNOTATION_GPU_SHARE);
    let memory = annotations.get(ANNOTATION_GPU_MEMORY);
    let models = || {
        let listed = annotations.get(ANNOTATION_GPU_MODELS).map_or("", String::as_str);
        listed
            .split('|')
            .map(str::trim)
            .filter(|m| !m.is_empty())
            .map(str::to_owned)
            .collect()
    };
    if let Some(count) = requests.get(RESOURCE_GPU).copied().filter(|count| *count > 0) {
        let name = if share.is_some() {
            Some(ANNOTATION_GPU_SHARE)
        } else {
            memory.map(|_| ANNOTATION_GPU_MEMORY)
        };
        if let Some(name) = name {
            let problem = format!(
                "asks for a part of a device beside {count} whole ones ({RESOURCE_GPU}); remove one of the two"
            );
            return Err(FieldError::new(field(name), problem));
        }
        let count = u16::try_from(count).map_err(|_| {
            FieldError::new(
                RESOURCE_GPU,
                format!("{count} devices are more than any node has ({})", u16::MAX),
            )
        })?;
        return Ok(Some(GpuRequest {
            count,
            milli: WHOLE,
            memory: 0,
            models: models(),
        }));
    }
    if share.is_none() && memory.is_none() {
        return Ok(None);
    }
    let milli = share.map_or(Ok(1), |text| match text.parse::<u16>() {
        Ok(milli) if (1..=WHOLE).contains(&milli) => Ok(milli),
        _ => Err(FieldError::new(
            field(ANNOTATION_GPU_SHARE),
            format!("{text:?} is no number from 1 to {WHOLE}"),
        )),
    })?;
    let memory = memory.map_or(Ok(0), |text| {
        quantity::amount("memory", text).map_err(|e| FieldError::new(field(ANNOTATION_GPU_MEMORY), e))
    })?;
    Ok(Some(GpuRequest {
        count: 1,
        milli,
        memory,
        models: models(),
    }))
}

/// What a claim's group asks for each of its pods.
///
/// # Errors
///
/// If a quantity is none.
pub fn of_group(gpus: &Gpus, field: &str) -> Result<Option<GpuRequest>, FieldError> {
    let memory = gpus.memory.as_ref().map_or(Ok(0), |q| quantity::amount("memory", &q.0));
    let memory = memory.map_err(|e| FieldError::new(format!("{field}.memory"), e))?;
    let (count, milli) = match (gpus.count, gpus.share) {
        (Some(0), _) => return Ok(None),
        (Some(count), _) => (count, WHOLE),
        (None, Some(share)) => (1, share.clamp(1, WHOLE)),
        (None, None) if memory > 0 => (1, 1),
        (None, None) => return Ok(None),
    };
    Ok(Some(GpuRequest {
        count,
        milli,
        memory,
        models: gpus.models.clone(),
    }))
}

/// Devices given to a pod when it was bound, ascending.
///
/// # Errors
///
/// If the annotation is no list of indices.
pub fn devices(annotations: &Texts) -> Result<Vec<u16>, FieldError> {
    let Some(text) = annotations.get(ANNOTATION_GPUS).filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
    };
    let mut devices = text
        .split(',')
        .map(|index| index.trim().parse::<u16>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| {
            FieldError::new(
                format!("metadata.annotations[{ANNOTATION_GPUS}]"),
                format!("{text:?} is no list of indices such as 0,1"),
            )
        })?;
    devices.sort_unstable();
    devices.dedup();
    Ok(devices)
}

/// NUMA node given to a pod when it was bound.
///
/// # Errors
///
/// If the annotation is no number.
pub fn numa(annotations: &Texts) -> Result<Option<u16>, FieldError> {
    let Some(text) = annotations.get(ANNOTATION_NUMA).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let id = text.trim().parse().map_err(|_| {
        let field = format!("metadata.annotations[{ANNOTATION_NUMA}]");
        FieldError::new(field, format!("{text:?} is no number of a NUMA node such as 0"))
    })?;
    Ok(Some(id))
}

/// Devices as the annotation spells them.
pub fn devices_text(devices: &[u16]) -> String {
    devices.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn texts(list: &[(&str, &str)]) -> Texts {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn whole_devices_come_by_resource_and_parts_by_annotation() {
        let none = Texts::new();
        let two = Amounts::from([(RESOURCE_GPU.to_owned(), 2)]);
        assert_eq!(of_pod(&none, &Amounts::new()), Ok(None));
        assert_eq!(
            of_pod(&none, &two),
            Ok(Some(GpuRequest {
                count: 2,
                milli: 1000,
                memory: 0,
                models: vec![]
            }))
        );
        let part = texts(&[
            (ANNOTATION_GPU_SHARE, "250"),
            (ANNOTATION_GPU_MEMORY, "2Ki"),
            (ANNOTATION_GPU_MODELS, "A100|H100"),
        ]);
        let models = vec!["A100".to_owned(), "H100".to_owned()];
        assert_eq!(
            of_pod(&part, &Amounts::new()),
            Ok(Some(GpuRequest {
                count: 1,
                milli: 250,
                memory: 2048,
                models
            }))
        );
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let two = Amounts::from([(RESOURCE_GPU.to_owned(), 2)]);
        for (annotations, requests) in [
            (texts(&[(ANNOTATION_GPU_SHARE, "0")]), Amounts::new()),
            (texts(&[(ANNOTATION_GPU_SHARE, "1001")]), Amounts::new()),
            (texts(&[(ANNOTATION_GPU_SHARE, "half")]), Amounts::new()),
            (texts(&[(ANNOTATION_GPU_SHARE, "100")]), two.clone()),
            (texts(&[(ANNOTATION_GPU_MEMORY, "much")]), Amounts::new()),
        ] {
            let error = of_pod(&annotations, &requests).unwrap_err();
            assert!(
                error.field.starts_with("metadata.annotations[duosuan.io/gpu-"),
                "{error}"
            );
        }
    }

    #[test]
    fn devices_read_back_as_they_were_written() {
        for list in [vec![], vec![3], vec![0, 1, 7]] {
            let annotations = texts(&[(ANNOTATION_GPUS, &devices_text(&list))]);
            assert_eq!(devices(&annotations), Ok(list));
        }
        assert!(devices(&texts(&[(ANNOTATION_GPUS, "0,x")])).is_err());
    }
}
