//! Kubernetes quantities of bytes, compared.

/// Bytes of a quantity such as `10Gi`, `1.5G`, `1e9` or `1024`; `None` if it is none.
#[must_use]
pub fn bytes(quantity: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 14] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("", 1.0),
    ];
    let text = quantity.trim();
    UNITS.iter().find_map(|(suffix, factor)| {
        let number: f64 = text.strip_suffix(suffix)?.parse().ok()?;
        (number >= 0.0 && number.is_finite()).then_some(number * factor)
    })
}

/// The larger of two quantities; the second if they cannot be compared.
#[must_use]
pub fn larger<'a>(a: &'a str, b: &'a str) -> &'a str {
    match (bytes(a), bytes(b)) {
        (Some(x), Some(y)) if x > y => a,
        (Some(_), None) => a,
        _ => b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_by_value() {
        assert_eq!(larger("1Gi", "1G"), "1Gi");
        assert_eq!(larger("1073741824", "1Gi"), "1Gi");
        assert_eq!(larger("2000Mi", "1Gi"), "2000Mi");
        assert_eq!(larger("0", "1Gi"), "1Gi");
        assert_eq!(larger("1e10", "1Gi"), "1e10");
        assert_eq!(bytes("x"), None);
        assert_eq!(bytes("-1Gi"), None);
    }
}
