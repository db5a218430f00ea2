//! Vectors against bytes and texts captured from PostgreSQL, and metrics against their definitions.

use super::*;
use proptest::prelude::*;

#[test]
fn golden_binary_forms() {
    // Captured from PostgreSQL 16 with pgvector 0.8.5: select vector_send('[1,-2.5]'), halfvec_send(..), array_send(..)
    for (kind, hex) in [
        (VectorType::Vector, "00020000 3f800000 c0200000"),
        (VectorType::Halfvec, "00020000 3c00 c100"),
        (
            VectorType::RealArray,
            "00000001 00000000 000002bc 00000002 00000001 00000004 3f800000 00000004 c0200000",
        ),
    ] {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let vector = Vector::from_binary(kind, &bytes).unwrap();
        assert_eq!(vector.as_slice(), [1.0, -2.5]);
        assert_eq!(vector.to_binary(kind), bytes);
        for end in 0..bytes.len() {
            assert!(
                Vector::from_binary(kind, &bytes[..end]).is_err(),
                "{kind:?} cut at {end}"
            );
        }
    }
}

#[test]
fn golden_binary_forms_of_bits() {
    // select bit_send(B'1011'), bit_send(X'0123456789ABCDEF0'), in PostgreSQL 16
    for (bytes, text, words) in [
        (&b"\0\0\0\x04\xb0"[..], "1011", &[0xb000_0000_u32][..]),
        (
            b"\0\0\0\x44\x01\x23\x45\x67\x89\xab\xcd\xef\0",
            "x0123456789ABCDEF0",
            &[0x0123_4567, 0x89ab_cdef, 0],
        ),
    ] {
        let vector = Vector::from_binary(VectorType::Bit, bytes).unwrap();
        let found: Vec<u32> = vector
            .as_slice()
            .iter()
            .map(|word| u32::from_be_bytes(word.to_ne_bytes()))
            .collect();
        assert_eq!(found, words);
        assert_eq!(vector.to_binary(VectorType::Bit), bytes);
        assert_eq!(Vector::from_text(VectorType::Bit, text).unwrap(), vector);
        let form = vector.form().unwrap();
        let again = Vector::from_words(form, vector.as_slice().to_vec()).unwrap();
        assert_eq!(again, vector);
        assert!(Vector::from_words(form, vec![0.0; words.len() + 1]).is_err());
        for end in 0..bytes.len() {
            let cut = Vector::from_binary(VectorType::Bit, &bytes[..end]);
            assert_eq!(cut, Err(VectorError::Malformed), "cut at {end}");
        }
        let longer = [bytes, &[0]].concat();
        assert!(Vector::from_binary(VectorType::Bit, &longer).is_err());
    }
    // What is beyond the last bit counts as zero, as PostgreSQL reads it.
    assert_eq!(
        Vector::from_binary(VectorType::Bit, b"\0\0\0\x04\xbf"),
        Vector::from_text(VectorType::Bit, "1011")
    );
    for (length, error) in [
        (0, VectorError::Empty),
        (-1, VectorError::Malformed),
        (64_001, VectorError::TooLong),
        (i32::MAX, VectorError::TooLong),
    ] {
        let bytes = [&i32::to_be_bytes(length)[..], &vec![0; 8_001]].concat();
        let bytes = if length == 0 { &bytes[..4] } else { &bytes };
        assert_eq!(
            Vector::from_binary(VectorType::Bit, bytes),
            Err(error),
            "{length} bits"
        );
    }
}

#[test]
fn texts_of_bits() {
    for (text, expected) in [
        ("b101", Ok("101")),
        ("B101", Ok("101")),
        ("x5", Ok("0101")),
        ("XfE", Ok("11111110")),
        ("", Err(VectorError::Empty)),
        ("b", Err(VectorError::Empty)),
        ("102", Err(VectorError::Malformed)),
        (" 101", Err(VectorError::Malformed)),
        ("xg", Err(VectorError::Malformed)),
        ("1é1", Err(VectorError::Malformed)),
        ("+1", Err(VectorError::Malformed)),
    ] {
        let expected = expected.map(|bits| Vector::from_text(VectorType::Bit, bits).unwrap());
        assert_eq!(
            Vector::from_text(VectorType::Bit, text),
            expected,
            "{text:?}"
        );
    }
    let most = "1".repeat(MAX_BITS);
    assert_eq!(
        Vector::from_text(VectorType::Bit, &most).unwrap().dim(),
        MAX_BITS
    );
    let more = format!("{most}0");
    assert_eq!(
        Vector::from_text(VectorType::Bit, &more),
        Err(VectorError::TooLong)
    );
}

#[test]
fn text_forms() {
    let check = |kind, text: &str, expected: Result<&[f32], VectorError>| {
        let found = Vector::from_text(kind, text);
        assert_eq!(
            found.as_ref().map(Vector::as_slice),
            expected.as_ref().map(|v| *v),
            "{text:?}"
        );
    };
    check(VectorType::Vector, "[1,2.5,-3e-1]", Ok(&[1.0, 2.5, -0.3]));
    check(VectorType::Vector, " [ 1 , 2 ] ", Ok(&[1.0, 2.0]));
    check(VectorType::RealArray, "{1,\"2\"}", Ok(&[1.0, 2.0]));
    check(VectorType::RealArray, "{1,-0.0e9}", Ok(&[1.0, 0.0]));
    check(
        VectorType::RealArray,
        "{1,1e-60}",
        Err(VectorError::Malformed),
    );
    check(VectorType::Vector, "[1,1e-60]", Ok(&[1.0, 0.0]));
    check(
        VectorType::Halfvec,
        "[0.1]",
        Ok(&[half::f16::from_f32(0.1).to_f32()]),
    );
    check(VectorType::Vector, "[]", Err(VectorError::Empty));
    check(VectorType::Vector, "{1}", Err(VectorError::Malformed));
    check(VectorType::Vector, "[1,]", Err(VectorError::Malformed));
    check(VectorType::Vector, "[1]x", Err(VectorError::Malformed));
    check(VectorType::Vector, "[NaN]", Err(VectorError::NotANumber));
    check(VectorType::Vector, "[Infinity]", Err(VectorError::Infinite));
    check(VectorType::Vector, "[1e39]", Err(VectorError::Infinite));
    check(VectorType::Halfvec, "[70000]", Err(VectorError::Infinite));
    check(
        VectorType::RealArray,
        "{1,NULL}",
        Err(VectorError::NullElement),
    );
    check(
        VectorType::RealArray,
        "{{1},{2}}",
        Err(VectorError::Malformed),
    );
    check(
        VectorType::Vector,
        &format!("[{}1]", "1,".repeat(MAX_DIM)),
        Err(VectorError::TooLong),
    );
}

#[test]
fn distances() {
    let (a, b) = ([1.0, 0.0], [0.0, 2.0]);
    assert_eq!(Metric::L2.distance(&a, &b), 5_f64.sqrt());
    assert_eq!(Metric::L1.distance(&a, &b), 3.0);
    assert_eq!(Metric::InnerProduct.distance(&a, &a), -1.0);
    assert_eq!(Metric::Cosine.distance(&a, &b), 1.0);
    assert!(Metric::Cosine.distance(&a, &[0.0, 0.0]).is_nan());
    // select B'1100' <~> B'1010', B'1100' <%> B'1010', B'1100' <%> B'0000', B'0000' <%> B'0000'
    let bits = |text| Vector::from_text(VectorType::Bit, text).unwrap();
    let (a, b, zero) = (bits("1100"), bits("1010"), bits("0000"));
    let distance =
        |metric: Metric, a: &Vector, b: &Vector| metric.distance(a.as_slice(), b.as_slice());
    assert_eq!(distance(Metric::Hamming, &a, &b), 2.0);
    assert_eq!(distance(Metric::Jaccard, &a, &b), 1.0 - 1.0 / 3.0);
    assert_eq!(distance(Metric::Jaccard, &a, &zero), 1.0);
    assert_eq!(distance(Metric::Jaccard, &zero, &zero), 1.0);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), text in ".{0,64}") {
        for kind in [VectorType::Vector, VectorType::Halfvec, VectorType::RealArray, VectorType::Bit] {
            let _ = Vector::from_binary(kind, &bytes);
            let _ = Vector::from_text(kind, &text);
        }
    }

    #[test]
    fn bits_round_trip(bits in proptest::collection::vec(any::<bool>(), 1..200)) {
        let text: String = bits.iter().map(|bit| if *bit { '1' } else { '0' }).collect();
        let vector = Vector::from_text(VectorType::Bit, &text).unwrap();
        prop_assert_eq!(vector.dim(), bits.len());
        let binary = vector.to_binary(VectorType::Bit);
        prop_assert_eq!(&Vector::from_binary(VectorType::Bit, &binary).unwrap(), &vector);
        let set = bits.iter().filter(|bit| **bit).count();
        let zero = vec![0.0; vector.as_slice().len()];
        prop_assert_eq!(Metric::Hamming.distance(vector.as_slice(), &zero), set as f64);
    }

    #[test]
    fn binary_round_trip(components in proptest::collection::vec(-1e30_f32..1e30, 1..40)) {
        let vector = Vector::new(components).unwrap();
        for kind in [VectorType::Vector, VectorType::RealArray] {
            prop_assert_eq!(&Vector::from_binary(kind, &vector.to_binary(kind)).unwrap(), &vector);
        }
    }
}
