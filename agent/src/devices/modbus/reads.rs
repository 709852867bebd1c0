//! Which requests read a set of properties: neighbours in a table are read together. Pure.

use selvedge_model::device::{ModbusSource, RegisterTable};

/// Most registers of one answer (Modbus Application Protocol 1.1b3, sections 6.3 and 6.4).
const MAX_REGISTERS: u16 = 125;
/// Most coils or inputs of one answer (sections 6.1 and 6.2).
const MAX_BITS: u16 = 2000;

/// One request, and which properties its answer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) table: RegisterTable,
    pub(super) address: u16,
    pub(super) count: u16,
    /// Property and where it begins in the answer.
    pub(super) properties: Vec<(usize, u16)>,
}

/// How many registers or bits a property takes.
pub(super) fn width(source: &ModbusSource) -> u16 {
    if is_bits(source.table) { 1 } else { source.encoding.registers() }
}

fn is_bits(table: RegisterTable) -> bool {
    matches!(table, RegisterTable::Coil | RegisterTable::DiscreteInput)
}

/// Groups properties whose registers touch or overlap. Gaps are never read: many devices answer a
/// request that holds one address that they do not have with nothing but an error.
pub(super) fn reads<'a>(properties: impl Iterator<Item = (usize, &'a ModbusSource)>) -> Vec<Read> {
    let mut properties: Vec<_> = properties.collect();
    properties.sort_by_key(|(property, source)| (source.table as u8, source.address, *property));
    let mut reads: Vec<Read> = Vec::new();
    for (property, source) in properties {
        let most = if is_bits(source.table) { MAX_BITS } else { MAX_REGISTERS };
        if let Some(last) = reads.last_mut()
            && last.table == source.table
            && u32::from(source.address) <= u32::from(last.address) + u32::from(last.count)
        {
            let offset = source.address - last.address;
            if offset + width(source) <= most {
                last.count = last.count.max(offset + width(source));
                last.properties.push((property, offset));
                continue;
            }
        }
        reads.push(Read {
            table: source.table,
            address: source.address,
            count: width(source),
            properties: vec![(property, 0)],
        });
    }
    reads
}

#[cfg(test)]
mod tests {
    use selvedge_model::device::RegisterEncoding;

    use super::*;

    fn rendered(sources: &[(RegisterTable, u16, RegisterEncoding)]) -> Vec<String> {
        let sources: Vec<_> = sources
            .iter()
            .map(|&(table, address, encoding)| ModbusSource {
                table,
                address,
                encoding,
                word_order: selvedge_model::device::WordOrder::BigEndian,
                scale: None,
            })
            .collect();
        let line = |r: Read| format!("{:?} {}+{} {:?}", r.table, r.address, r.count, r.properties);
        reads(sources.iter().enumerate()).into_iter().map(line).collect()
    }

    #[test]
    fn neighbours_are_read_together_and_gaps_are_not() {
        use RegisterEncoding::{Float32, Uint16};
        use RegisterTable::{Coil, HoldingRegister, InputRegister};
        assert_eq!(
            rendered(&[
                (HoldingRegister, 12, Uint16),
                (HoldingRegister, 10, Float32),
                (HoldingRegister, 11, Uint16),
                (HoldingRegister, 14, Uint16),
                (InputRegister, 13, Uint16),
                (Coil, 0, Float32),
                (Coil, 1, Uint16),
                (HoldingRegister, 65534, Float32),
            ]),
            [
                "Coil 0+2 [(5, 0), (6, 1)]",
                "HoldingRegister 10+3 [(1, 0), (2, 1), (0, 2)]",
                "HoldingRegister 14+1 [(3, 0)]",
                "HoldingRegister 65534+2 [(7, 0)]",
                "InputRegister 13+1 [(4, 0)]",
            ]
        );
        let long: Vec<_> = (0..130).map(|address| (HoldingRegister, address, Uint16)).collect();
        let counts: Vec<_> =
            rendered(&long).iter().map(|r| r.split(' ').nth(1).unwrap().to_owned()).collect();
        assert_eq!(counts, ["0+125", "125+5"]);
    }
}
