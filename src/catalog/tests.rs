//! Names, keys and factory strings: what is read, written and refused.

use super::*;

#[test]
fn key_parts_round_trip() {
    for parts in [vec![&b"\0\0\0\x01"[..]], vec![b"a", b"", b"ccc"]] {
        let key = RowKey::from_parts(parts.iter().copied());
        assert_eq!(RowKey::parts(key.as_bytes()).collect::<Vec<_>>(), parts);
    }
    assert_eq!(RowKey::parts(b"\0\0\0\x09short").count(), 0);
}

#[test]
fn key_types_are_found_by_oid() {
    for kind in KeyType::ALL {
        assert_eq!(KeyType::from_oid(kind.oid()), Some(kind));
    }
    assert_eq!(KeyType::from_oid(TypeId(1700)), None);
}

#[test]
fn factory_strings_of_the_list() {
    for text in [
        "IVF100,Flat",
        "IVF4096_HNSW32,PQ384x4fs",
        "OPQ64_128,IVF100,PQ64x4fs",
        "PCA64,HNSW16,SQ8",
        "HNSW32",
        "IVF1,RaBitQ",
    ] {
        let factory = Factory::new(text);
        assert_eq!(factory.map(String::from).as_deref(), Some(text));
    }
    for text in [
        "",
        ",",
        "Flat",
        "LSH",
        "PQ8",
        "HNSW16,PQ8",
        "IVF0,Flat",
        "IVF100",
        "IVF100,",
        "IVF100,Flat,RFlat",
        "IVF999999,Flat",
        "IVF100_HNSW,Flat",
        "IDMap,IVF1,Flat",
        "IVF1,PQ8x12",
        "OPQ,IVF1,Flat",
        "IVFé,Flat",
    ] {
        assert_eq!(Factory::new(text), None, "{text}");
    }
}

fn columns(kinds: &[KeyType]) -> Vec<KeyColumn> {
    let column = |(number, kind): (i16, &KeyType)| KeyColumn {
        name: format!("k{number}"),
        number: ColumnNumber(number),
        kind: *kind,
    };
    (1..).zip(kinds).map(column).collect()
}

#[test]
fn keys_become_one_array_a_column() {
    let keys = [
        RowKey::from_parts([&b"\0\0\0\x01"[..], b"ab"]),
        RowKey::from_parts([&b"\0\0\0\x02"[..], b""]),
    ];
    let keys = keys.iter().map(RowKey::as_bytes);
    let found = key_arrays(&columns(&[KeyType::Int4, KeyType::Text]), keys);
    // As array_send(array[1, 2]) and array_send(array['ab', '']) print them.
    let int =
        b"\0\0\0\x01\0\0\0\0\0\0\0\x17\0\0\0\x02\0\0\0\x01\0\0\0\x04\0\0\0\x01\0\0\0\x04\0\0\0\x02";
    let text = b"\0\0\0\x01\0\0\0\0\0\0\0\x19\0\0\0\x02\0\0\0\x01\0\0\0\x02ab\0\0\0\0";
    assert_eq!(found, [&int[..], &text[..]]);
}

#[test]
fn no_keys_are_an_empty_array() {
    let found = key_arrays(&columns(&[KeyType::Uuid]), std::iter::empty());
    assert_eq!(found, [&b"\0\0\0\0\0\0\0\0\0\0\x0b\x86"[..]]);
}
