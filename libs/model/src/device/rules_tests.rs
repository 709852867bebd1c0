use serde_json::{Value, json};

use super::{check_device, check_model};

fn model() -> Value {
    json!({"properties": [
        {"name": "temperature", "type": "float", "source": {"modbus": {"table": "InputRegister", "address": 0}}},
        {"name": "setpoint", "type": "int", "access": "ReadWrite", "minimum": 20, "maximum": 90,
         "source": {"modbus": {"table": "HoldingRegister", "address": 0}}},
        {"name": "mode", "type": "string", "access": "ReadWrite"},
    ]})
}

fn device(changes: &[(&str, Value)]) -> Value {
    let mut device = json!({
        "modelRef": {"name": "boiler"}, "nodeName": "shop-0042",
        "protocol": {"modbus": {"tcp": {"host": "10.0.0.5", "port": 502}}},
        "properties": [{"name": "temperature", "readInterval": "100ms"}],
        "desired": {"setpoint": 60},
    });
    for (pointer, value) in changes {
        *device.pointer_mut(pointer).unwrap() = value.clone();
    }
    device
}

/// The faults, one a line.
fn said(faults: &[crate::fault::Fault]) -> String {
    faults.iter().map(|fault| format!("{fault}\n")).collect()
}

#[test]
fn what_is_right_passes() {
    assert_eq!(said(&check_model(&model())), "");
    assert_eq!(said(&check_device(&device(&[]), Some(&model()))), "");
    assert_eq!(
        said(&check_device(&device(&[("/desired", json!({"anything": []}))]), None)),
        "",
        "no model yet"
    );
}

#[test]
fn everything_wrong_with_desired_values_is_said_at_once() {
    let desired = json!({"setpoint": 500, "temperature": 20.5, "fan": 1, "mode": "eco"});
    assert_eq!(
        said(&check_device(&device(&[("/desired", desired)]), Some(&model()))),
        "spec.desired.mode: has no source, neither in the model nor in spec.properties: nothing can be written\n\
         spec.desired.fan: \"fan\" is no property of the model, which has temperature, setpoint, mode\n\
         spec.desired.setpoint: 500 is out of range: write a value from 20 to 90\n\
         spec.desired.temperature: is read-only: remove it, or set access: ReadWrite in the model\n"
    );
    let desired = json!({"setpoint": "warm"});
    assert_eq!(
        said(&check_device(&device(&[("/desired", desired)]), Some(&model()))),
        "spec.desired.setpoint: \"warm\" is text, but the property is an int: write a whole number\n"
    );
}

#[test]
fn bounds_hold_at_their_ends_and_by_value() {
    for (value, fits) in
        [(json!(20), true), (json!(90), true), (json!(90.0), true), (json!(19), false), (json!(91), false)]
    {
        let device = device(&[("/desired", json!({"setpoint": value}))]);
        assert_eq!(check_device(&device, Some(&model())).is_empty(), fits, "{value}");
    }
}

#[test]
fn wiring_fits_protocol_and_model() {
    let simulated = device(&[("/protocol", json!({"simulated": {}}))]);
    let faults = said(&check_device(&simulated, Some(&model())));
    assert!(faults.contains("\"setpoint\" is wired for another protocol than simulated"), "{faults}");

    let unknown =
        device(&[("/properties", json!([{"name": "fan"}, {"name": "setpoint", "readInterval": "1ms"}]))]);
    assert_eq!(
        said(&check_device(&unknown, Some(&model()))),
        "spec.properties[0].name: \"fan\" is no property of the model, which has temperature, setpoint, mode\n\
         spec.properties[1].readInterval: 1ms is too short: the least is 10ms\n"
    );

    let host = device(&[("/protocol/modbus/tcp", json!({"host": "a b", "port": 0}))]);
    assert_eq!(
        said(&check_device(&host, Some(&model()))),
        "spec.protocol.modbus.tcp.host: \"a b\" is no host name or address\n\
         spec.protocol.modbus.tcp.port: 0 is no port: 502 is usual\n"
    );
}

#[test]
fn everything_wrong_with_a_model_is_said_at_once() {
    let model = json!({"properties": [
        {"name": "a", "type": "int", "minimum": 10, "maximum": 1.0, "deadband": -1, "readInterval": "soon"},
        {"name": "a", "type": "complex", "access": "WriteOnly"},
        {"name": "b", "type": "bool", "maximum": 1, "deadband": 1},
        {"name": "c", "type": "string", "source": {"modbus": {"table": "Tape", "address": 1, "scale": 0}}},
        {"name": "d", "type": "float", "access": "ReadWrite",
         "source": {"modbus": {"table": "InputRegister", "address": 65535, "encoding": "Float32"}}},
        {"name": "e", "type": "bool", "source": {"simulated": {"waveform": "Sine", "period": "1"}}},
        {"name": "f", "type": "int", "source": {}},
    ]});
    let faults = check_model(&model);
    let paths: Vec<_> = faults.iter().map(|fault| fault.path.trim_start_matches("spec.properties")).collect();
    assert_eq!(
        paths,
        [
            "[0].minimum",
            "[0].readInterval",
            "[0].deadband",
            "[1].name",
            "[1].type",
            "[1].access",
            "[2].maximum",
            "[2].deadband",
            "[3].source.modbus.table",
            "[3].source.modbus.scale",
            "[3].source.modbus",
            "[4].source.modbus.table",
            "[4].source.modbus.address",
            "[5].source.simulated.waveform",
            "[5].source.simulated.period",
            "[6].source",
        ],
        "{}",
        said(&faults)
    );
}
