//! Pure: what a database's functions, operators, types and relations may do, as an immutable snapshot, by name.
//! The loader makes it from the primary; `sql::classify` reads it. It holds no connection and never changes.
//!
//! Everything is asked for by name, never by type: an unqualified name stands for every object of that name in every
//! schema and every overload, so that an answer holds under any search_path and any type resolution.

pub mod builtin;
pub mod graph;
pub mod handle;
pub mod loader;
pub mod query;
pub mod tree;

use std::collections::{HashMap, HashSet};

use crate::cluster::Position;

/// What running something leaves behind in the server process, besides its result: a set, over-approximated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Conduct(u8);

impl Conduct {
    pub const QUIET: Conduct = Conduct(0);
    /// May change what lives in the server process, and only asking it tells what.
    pub const AUDIT: Conduct = Conduct(1);
    /// Takes values from sequences.
    pub const SEQUENCE: Conduct = Conduct(2);
    /// Asks for the value last taken from a sequence.
    pub const LAST_SEQUENCE: Conduct = Conduct(4);
    /// Changes what the catalog says.
    pub const DDL: Conduct = Conduct(8);
    /// Seeds the random generator.
    pub const SEED: Conduct = Conduct(16);
    /// Names the server process.
    pub const BACKEND_PID: Conduct = Conduct(32);
    /// Sets a replication origin.
    pub const ORIGIN: Conduct = Conduct(64);
    /// Ends server processes.
    pub const TERMINATES: Conduct = Conduct(128);

    pub fn has(self, other: Conduct) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub fn and(self, other: Conduct) -> Conduct {
        Conduct(self.0 | other.0)
    }
}

impl Conduct {
    /// The same, for constants.
    pub const fn and_const(self, other: Conduct) -> Conduct {
        Conduct(self.0 | other.0)
    }
}

/// Whether a replica answers alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Safety {
    Safe,
    /// Safe if its first argument is a literal that names a setting which every node has alike (current_setting).
    BySetting,
    Unsafe(Box<str>),
}

/// What a look-up by name found: the worst of everything that the name may mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    Safe,
    BySetting,
    Unsafe(&'a str),
    Unknown,
    /// The snapshot is not loaded.
    NoCatalog,
}

/// One overload of a function.
#[derive(Clone, Debug)]
pub struct Function {
    pub schema: Box<str>,
    pub least_arguments: u16,
    pub most_arguments: u16,
    /// Its only argument may be a whole row: `x.name` may mean `name(x)`.
    pub takes_row: TakesRow,
    pub safety: Safety,
    pub conduct: Conduct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakesRow {
    No,
    Yes,
}

/// An operator or a type.
#[derive(Clone, Debug)]
pub struct Named {
    pub schema: Box<str>,
    pub safety: Safety,
    pub conduct: Conduct,
}

/// How a write to a relation fails in a READ ONLY transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// With 25006 on every node: a permanent, logged table, or a permanent sequence.
    Refused,
    /// Perhaps otherwise.
    Unclear,
}

/// A table, view, sequence or other relation.
#[derive(Clone, Debug)]
pub struct Relation {
    pub schema: Box<str>,
    pub safety: Safety,
    /// Of reading it (a view's functions).
    pub conduct: Conduct,
    /// Of writing it (triggers, defaults, policies, rules, children).
    pub write_conduct: Conduct,
    pub writes: Writes,
    pub sequence: IsSequence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsSequence {
    No,
    Yes,
}

type ByName<T> = HashMap<Box<str>, Vec<T>, foldhash::fast::FixedState>;

/// A snapshot of one database.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Which database of this process; verdicts of another one are not for this one.
    pub id: u32,
    /// Grows with every snapshot of this database; verdicts of another version are void. 0: not loaded.
    pub version: u64,
    /// The primary's insert position when the snapshot was read: a replica behind it may know older definitions.
    pub position: Position,
    /// Another text when what new sessions begin with (ALTER ROLE … SET) became another.
    pub defaults: Box<str>,
    /// What sessions of a role begin with, as digests; under the empty name what those of all roles do.
    pub beginnings: HashMap<Box<str>, Box<str>, foldhash::fast::FixedState>,
    /// `server_version_num` of the primary.
    pub server_version: u32,
    pub functions: ByName<Function>,
    pub operators: ByName<Named>,
    pub types: ByName<Named>,
    pub relations: ByName<Relation>,
    /// Users' types that a client may declare for a parameter: reading a value of them runs nothing unsafe.
    pub parameters: HashSet<u32, foldhash::fast::FixedState>,
    /// Every attribute name of the database.
    pub columns: HashSet<Box<str>, foldhash::fast::FixedState>,
    /// Why nothing may be read from replicas: something unsafe that statements use without naming it.
    pub poison: Option<Box<str>>,
}

/// A look-up's result with the conduct of everything that the name may mean.
pub type Found<'a> = (Answer<'a>, Conduct);

impl Catalog {
    pub fn is_loaded(&self) -> bool {
        self.version != 0
    }

    /// A call of a function with so many arguments.
    pub fn function(&self, schema: Option<&str>, name: &str, arguments: usize) -> Found<'_> {
        let fits =
            |f: &&Function| usize::from(f.least_arguments) <= arguments && arguments <= usize::from(f.most_arguments);
        let matching = entries(&self.functions, name).filter(|f| in_schema(&f.schema, schema)).filter(fits);
        let (answer, _) = self.worst(matching.map(|f| (&f.safety, f.conduct)));
        // Conduct is of all overloads: a wrong guess there costs a query, a missed one costs correctness.
        let conduct = entries(&self.functions, name).fold(Conduct::QUIET, |sum, f| sum.and(f.conduct));
        (answer, conduct)
    }

    /// Any call of a function of this name, whatever its arguments.
    pub fn any_function(&self, name: &str) -> Found<'_> {
        self.worst(entries(&self.functions, name).map(|f| (&f.safety, f.conduct)))
    }

    /// `row.name`, which may mean `name(row)`: `Unknown` if no function or type could be meant.
    pub fn attribute(&self, name: &str, rows: AttributeOf) -> Found<'_> {
        let fits = |f: &&Function| {
            f.least_arguments <= 1
                && f.most_arguments >= 1
                && (rows == AttributeOf::Anything || f.takes_row == TakesRow::Yes)
        };
        let functions = entries(&self.functions, name).filter(fits).map(|f| (&f.safety, f.conduct));
        let types = entries(&self.types, name).map(|t| (&t.safety, t.conduct));
        self.worst(functions.chain(types))
    }

    pub fn operator(&self, schema: Option<&str>, name: &str) -> Found<'_> {
        let matching = entries(&self.operators, name).filter(|o| in_schema(&o.schema, schema));
        self.worst(matching.map(|o| (&o.safety, o.conduct)))
    }

    pub fn type_(&self, schema: Option<&str>, name: &str) -> Found<'_> {
        let matching = entries(&self.types, name).filter(|t| in_schema(&t.schema, schema));
        self.worst(matching.map(|t| (&t.safety, t.conduct)))
    }

    /// Whether a client may declare a parameter of the type with this number: binding it runs the type's own code, a
    /// domain's checks too, although no statement names it.
    pub fn takes_parameter(&self, type_: u32) -> bool {
        type_ < tree::FIRST_USER || self.parameters.contains(&type_)
    }

    /// Reading a relation.
    pub fn relation(&self, schema: Option<&str>, name: &str) -> Found<'_> {
        self.worst(self.relations_of(schema, name).map(|r| (&r.safety, r.conduct)))
    }

    /// Everything that a relation's name may mean.
    pub fn relations_of<'a, 's>(
        &'a self,
        schema: Option<&'s str>,
        name: &str,
    ) -> impl Iterator<Item = &'a Relation> + use<'a, 's> {
        entries(&self.relations, name).filter(move |r| in_schema(&r.schema, schema))
    }

    fn worst<'a>(&self, found: impl Iterator<Item = (&'a Safety, Conduct)>) -> Found<'a> {
        if !self.is_loaded() {
            return (Answer::NoCatalog, Conduct::AUDIT);
        }
        let mut answer = Answer::Unknown;
        let mut conduct = Conduct::QUIET;
        for (safety, of_one) in found {
            conduct = conduct.and(of_one);
            answer = match (answer, safety) {
                (Answer::Unsafe(why), _) => Answer::Unsafe(why),
                (_, Safety::Unsafe(why)) => Answer::Unsafe(why),
                (Answer::BySetting, _) | (_, Safety::BySetting) => Answer::BySetting,
                _ => Answer::Safe,
            };
        }
        (answer, conduct)
    }
}

/// What an attribute is taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeOf {
    /// `alias.name`: a whole row.
    Row,
    /// `(expression).name`: any type.
    Anything,
}

fn entries<'a, T>(map: &'a ByName<T>, name: &str) -> std::slice::Iter<'a, T> {
    map.get(name).map(Vec::as_slice).unwrap_or_default().iter()
}

fn in_schema(schema: &str, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| wanted == schema)
}
