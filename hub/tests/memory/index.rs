//! What the index costs in memory per Device, beside its encoded body.

use selvedge_hub::index::{Event, Index, ObjectKey, Part, Pins, Resource, Slot};
use serde_json::{Value, json};

use crate::{allocated, alone};

const NODES: usize = 2_000;
const DEVICES: usize = 20_000;
const MODELS: usize = 20;
/// Bytes of the index per Device beside its body.
const TARGET: usize = 2_048;

fn node(number: usize) -> Value {
    let labels = json!({"tier": "shop", "region": format!("region-{}", number % 16)});
    json!({"metadata": {
        "name": format!("shop-{number:04}"), "uid": format!("6f9619ff-8b86-d011-b42d-00c04fc9{number:04}"),
        "resourceVersion": number.to_string(), "labels": labels,
    }, "spec": {}})
}

/// Four properties with wiring and limits, as of a small meter: more would only make the body larger.
fn model(number: usize) -> Value {
    let properties: Vec<Value> = (0..4)
        .map(|property| {
            json!({
                "name": format!("property-{property}"), "type": "float", "unit": "kWh",
                "access": if property < 2 { "ReadWrite" } else { "ReadOnly" },
                "minimum": 0, "maximum": 1000 + number, "readInterval": "10s", "reportInterval": "60s",
                "deadband": 0.5, "source": {"simulated": {}},
            })
        })
        .collect();
    json!({"metadata": {"name": format!("meter-{number:02}"), "namespace": "shops", "uid": format!("m{number}"),
        "resourceVersion": "1"}, "spec": {"properties": properties}})
}

/// As the API server sends it: with status and managed fields, none of which the index keeps.
fn device(number: usize) -> Value {
    let conditions: Vec<Value> = ["Accepted", "Ready", "Synced"]
        .map(|name| json!({"type": name, "status": "True", "reason": "Applied", "message": "", "observedGeneration": 1}))
        .into();
    json!({
        "metadata": {
            "name": format!("meter-{number:05}"), "namespace": "shops", "generation": 1,
            "uid": format!("0f1ce000-8b86-d011-b42d-00c04fc{number:05}"),
            "resourceVersion": (number + 10_000).to_string(),
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:desired": {}}}}],
        },
        "spec": {
            "nodeName": format!("shop-{:04}", number % NODES),
            "modelRef": {"name": format!("meter-{:02}", number % MODELS)},
            "protocol": {"simulated": {}},
            // Each its own value: no two bodies are alike.
            "desired": {"property-0": number % 1000, "property-1": f64::from(u32::try_from(number).unwrap()) / 100.0},
        },
        "status": {"conditions": conditions, "summary": "property-0=1 property-1=2", "observedGeneration": 1},
    })
}

#[test]
fn a_device_costs_at_most_two_kibibytes_beside_its_body() {
    let _alone = alone();
    let mut index = Index::default();
    let namespace = json!({"metadata": {"name": "shops", "labels": {"selvedge.dev/edge": "enabled"}}});
    index.apply(Event::Applied(Resource::Namespaces, namespace));
    for number in 0..NODES {
        index.apply(Event::Applied(Resource::EdgeNodes, node(number)));
    }
    for number in 0..MODELS {
        index.apply(Event::Applied(Resource::DeviceModels, model(number)));
    }
    let before = allocated();
    for number in 0..DEVICES {
        index.apply(Event::Applied(Resource::Devices, device(number)));
    }
    let grown = allocated() - before;

    let mut bodies = 0;
    for number in 0..DEVICES {
        let part = Part::Device(ObjectKey::new("shops", &format!("meter-{number:05}")));
        let slots = index.part(&format!("shop-{:04}", number % NODES), &part, &Pins::new());
        let Some(Slot::Present(present)) = slots.into_values().next() else {
            panic!("{part:?} is not there")
        };
        bodies += present.body.bytes.len();
    }
    let beside = (grown - bodies) / DEVICES;
    println!(
        "{}",
        json!({"name": "device_index_bytes", "value": beside, "unit": "bytes", "n": DEVICES, "target": TARGET,
            "met": beside <= TARGET, "note": format!("beside an encoded body of {} bytes; as asked of the allocator",
            bodies / DEVICES)})
    );
    assert!(beside <= TARGET, "a Device costs {beside} bytes beside its body of {} bytes", bodies / DEVICES);
}
