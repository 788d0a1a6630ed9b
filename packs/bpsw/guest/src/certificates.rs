//! Numbers and proofs of compositeness, as JSON.

use bpsw_arith::natural::{Natural, ParseError};
use bpsw_arith::verdict::Certificate;
use serde::{Deserialize, Serialize};

/// A composite that passes both halves, with its proof.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claim {
    pub(crate) n: String,
    pub(crate) certificate: Proof,
}

/// A certificate.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Proof {
    StrongBase { base: u32 },
    LucasCongruence { discriminant: i32 },
    Factors { factors: Vec<String> },
}

impl Claim {
    pub(crate) fn of(number: &Natural, certificate: &Certificate) -> Self {
        Self { n: number.to_string(), certificate: certificate.into() }
    }

    /// The number and the certificate themselves.
    pub(crate) fn parse(&self) -> Result<(Natural, Certificate), ParseError> {
        Ok((Natural::parse(&self.n)?, self.certificate.parse()?))
    }
}

impl Proof {
    pub(crate) fn parse(&self) -> Result<Certificate, ParseError> {
        Ok(match self {
            Self::StrongBase { base } => Certificate::StrongBase(*base),
            Self::LucasCongruence { discriminant } => Certificate::LucasCongruence(*discriminant),
            Self::Factors { factors } => {
                Certificate::Factors(factors.iter().map(|factor| Natural::parse(factor)).collect::<Result<_, _>>()?)
            }
        })
    }
}

impl From<&Certificate> for Proof {
    fn from(certificate: &Certificate) -> Self {
        match certificate {
            Certificate::StrongBase(base) => Self::StrongBase { base: *base },
            Certificate::LucasCongruence(discriminant) => Self::LucasCongruence { discriminant: *discriminant },
            Certificate::Factors(factors) => Self::Factors { factors: factors.iter().map(Natural::to_string).collect() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_as_text() {
        let seven = Natural::from(7);
        for (certificate, expected) in [
            (Certificate::StrongBase(3), r#"{"kind":"strong_base","base":3}"#),
            (Certificate::LucasCongruence(-7), r#"{"kind":"lucas_congruence","discriminant":-7}"#),
            (Certificate::Factors(vec![seven.clone(), seven]), r#"{"kind":"factors","factors":["7","7"]}"#),
        ] {
            let text = serde_json::to_string(&Proof::from(&certificate)).expect("plain");
            assert_eq!(text, expected);
            let back: Proof = serde_json::from_str(&text).expect("its own");
            assert_eq!(back.parse(), Ok(certificate));
        }
    }
}
