//! Others that test numbers: programs that print what they counted and the processor time it took.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::Outcome;

/// One of them, with what it is told.
pub(crate) struct Peer {
    pub(crate) name: String,
    program: &'static str,
    arguments: Vec<String>,
    /// What it reads from standard input.
    script: String,
}

/// What came of it.
pub(crate) enum Said {
    Counted {
        count: u64,
        seconds: f64,
    },
    /// It is not installed, or lacks something.
    Absent(String),
}

impl Peer {
    fn pari(what: &str, body: &str) -> Self {
        // gettime() is the processor time since it was last asked, in milliseconds.
        let script = format!("gettime();c=0;{body};t=gettime();print(c,\" \",t/1000.);\n");
        Self { name: format!("PARI/GP {what}"), program: "gp", arguments: vec!["-q".into(), "-f".into()], script }
    }

    pub(crate) fn pari_forprime(from: u64, length: u64) -> Self {
        Self::pari("forprime", &format!("forprime(p={from},{from}+{length},c++)"))
    }

    pub(crate) fn pari_each(from: u64, length: u64) -> Self {
        Self::pari("ispseudoprime, each odd number", &format!("forstep(n={from}+1,{from}+{length},2,if(ispseudoprime(n),c++))"))
    }

    /// Each number without a factor up to a bound; picking them out is not counted.
    pub(crate) fn pari_survivors(from: u64, length: u64, bound: u32) -> Self {
        let body = "for(i=1,#v,if(ispseudoprime(v[i]),c++))";
        let peer = Self::pari("ispseudoprime, each survivor", body);
        let pick = format!(
            "default(parisizemax,\"1G\");\nP=1;forprime(p=3,{bound},P*=p);\nv=List();forstep(n={from}+1,{from}+{length},2,if(gcd(n,P)==1,listput(v,n)));v=Vec(v);\n"
        );
        Self { script: pick + &peer.script, ..peer }
    }

    fn perl(what: &str, import: &str, body: &str) -> Self {
        Self::perl_after(what, import, "", body)
    }

    /// What `before` does is not counted.
    fn perl_after(what: &str, import: &str, before: &str, body: &str) -> Self {
        let script = format!(
            "use strict; use warnings; use Math::Prime::Util qw({import}); {before}; my $c=0; my $t=(times)[0]; {body}; printf(\"%d %.6f\\n\",$c,(times)[0]-$t);"
        );
        Self { name: format!("Math::Prime::Util {what}"), program: "perl", arguments: vec!["-".into()], script }
    }

    pub(crate) fn perl_forprimes(from: u64, length: u64) -> Self {
        Self::perl("forprimes", "forprimes", &format!("forprimes {{ $c++ }} {from},{from}+{length}"))
    }

    pub(crate) fn perl_each(from: u64, length: u64) -> Self {
        let body = format!("for (my $n={from}+1; $n<={from}+{length}; $n+=2) {{ $c++ if is_prob_prime($n) }}");
        Self::perl("is_prob_prime, each odd number", "is_prob_prime", &body)
    }

    /// As [`Self::pari_survivors`].
    pub(crate) fn perl_survivors(from: u64, length: u64, bound: u32) -> Self {
        let pick = format!(
            "my ($f,$l)=({from}+1,{length}/2); my @m=(0)x$l; \
             for my $p (@{{primes(3,{bound})}}) {{ my $r=$f%$p; my $i=$r ? (($p-$r)%2 ? ($p-$r+$p)/2 : ($p-$r)/2) : 0; \
             for (; $i<$l; $i+=$p) {{ $m[$i]=1 }} }} my @s=map {{ $f+2*$_ }} grep {{ !$m[$_] }} 0..$l-1"
        );
        let body = "for my $n (@s) { $c++ if is_prob_prime($n) }";
        Self::perl_after("is_prob_prime, each survivor", "is_prob_prime primes", &pick, body)
    }

    /// Both halves, always, as a census runs them.
    pub(crate) fn gmp_halves(bits: u32, count: u32) -> Self {
        let script = format!(
            "import gmpy2, time\nn = gmpy2.mpz(2)**{} + 1\nc = 0\nt = time.process_time()\nfor i in range({count}):\n    a = gmpy2.is_strong_prp(n, 2)\n    b = gmpy2.is_strong_selfridge_prp(n)\n    c += a and b\n    n += 2\nprint(c, time.process_time() - t)\n",
            bits - 1
        );
        // The system's Python, which is the one that system packages belong to.
        let program = if std::path::Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
        Self { name: "GMP by gmpy2".into(), program, arguments: vec!["-".into()], script }
    }

    /// Runs it once, on one thread.
    pub(crate) fn run(&self) -> Outcome<Said> {
        let mut command = Command::new(self.program);
        command.args(&self.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Ok(Said::Absent(format!("{}: {error}", self.program))),
        };
        child.stdin.take().ok_or("no standard input")?.write_all(self.script.as_bytes())?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut words = text.split_whitespace();
        match (words.next().and_then(|word| word.parse().ok()), words.next().and_then(|word| word.parse().ok())) {
            (Some(count), Some(seconds)) => Ok(Said::Counted { count, seconds }),
            _ => Ok(Said::Absent(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it said nothing").to_owned())),
        }
    }
}
