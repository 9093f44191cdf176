//! Pure: objects of a database, what each uses, and how unsafety and conduct flow from what is used to what uses it.
//! The analysis builds one; it knows nothing of catalogs.

use std::collections::HashMap;

use super::Conduct;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    Function(u32),
    Relation(u32),
    /// Writing to a relation: its triggers, defaults, policies, rules.
    Writing(u32),
    Type(u32),
}

/// What flows along a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Both,
    /// Only conduct: the user was judged by itself.
    Conduct,
}

#[derive(Debug, Default)]
struct Node {
    unsafe_because: Option<Box<str>>,
    conduct: Conduct,
    /// Who uses this, and what flows there.
    users: Vec<(usize, Flow)>,
    /// The operator vouches for it: nothing flows in.
    trusted: bool,
}

#[derive(Debug, Default)]
pub struct Graph {
    index: HashMap<Object, usize, foldhash::fast::FixedState>,
    nodes: Vec<Node>,
}

impl Graph {
    fn node(&mut self, object: Object) -> usize {
        let next = self.nodes.len();
        let at = *self.index.entry(object).or_insert(next);
        if at == next {
            self.nodes.push(Node::default());
        }
        at
    }

    pub fn taint(&mut self, object: Object, why: &str) {
        let at = self.node(object);
        self.nodes[at].unsafe_because.get_or_insert_with(|| why.into());
    }

    pub fn trust(&mut self, object: Object) {
        let at = self.node(object);
        self.nodes[at].trusted = true;
    }

    pub fn conduct(&mut self, object: Object, conduct: Conduct) {
        let at = self.node(object);
        self.nodes[at].conduct = self.nodes[at].conduct.and(conduct);
    }

    pub fn uses(&mut self, user: Object, used: Object, flow: Flow) {
        let (user, used) = (self.node(user), self.node(used));
        if user != used {
            self.nodes[used].users.push((user, flow));
        }
    }

    /// Until nothing changes. Conduct only grows and a taint stays, so it ends.
    pub fn propagate(&mut self, name: impl Fn(Object) -> String) {
        for node in &mut self.nodes {
            if node.trusted {
                node.unsafe_because = None;
                node.conduct = Conduct::QUIET;
            }
        }
        let names: HashMap<usize, Object> = self.index.iter().map(|(object, at)| (*at, *object)).collect();
        let mut work: Vec<usize> = (0..self.nodes.len()).collect();
        while let Some(at) = work.pop() {
            let tainted = self.nodes[at].unsafe_because.is_some();
            let conduct = self.nodes[at].conduct;
            for (user, flow) in self.nodes[at].users.clone() {
                let target = &mut self.nodes[user];
                if target.trusted {
                    continue;
                }
                let mut changed = false;
                if tainted && flow == Flow::Both && target.unsafe_because.is_none() {
                    let through = names.get(&at).map(|o| name(*o)).unwrap_or_default();
                    target.unsafe_because = Some(format!("uses {through}").into());
                    changed = true;
                }
                if !target.conduct.has(conduct) {
                    target.conduct = target.conduct.and(conduct);
                    changed = true;
                }
                if changed {
                    work.push(user);
                }
            }
        }
    }

    pub fn why(&self, object: Object) -> Option<&str> {
        self.nodes[*self.index.get(&object)?].unsafe_because.as_deref()
    }

    pub fn conduct_of(&self, object: Object) -> Conduct {
        self.index.get(&object).map_or(Conduct::QUIET, |at| self.nodes[*at].conduct)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taint_and_conduct_flow_to_users() {
        let mut graph = Graph::default();
        graph.taint(Object::Function(1), "writes");
        graph.conduct(Object::Function(1), Conduct::AUDIT);
        graph.uses(Object::Relation(2), Object::Function(1), Flow::Both);
        graph.uses(Object::Relation(3), Object::Relation(2), Flow::Both);
        graph.uses(Object::Writing(4), Object::Function(1), Flow::Conduct);
        graph.uses(Object::Function(5), Object::Relation(3), Flow::Both);
        graph.trust(Object::Function(5));
        graph.propagate(|o| format!("{o:?}"));
        assert_eq!(graph.why(Object::Relation(3)), Some("uses Relation(2)"));
        assert_eq!(graph.why(Object::Writing(4)), None);
        assert!(graph.conduct_of(Object::Writing(4)).has(Conduct::AUDIT));
        assert_eq!((graph.why(Object::Function(5)), graph.conduct_of(Object::Function(5))), (None, Conduct::QUIET));
    }
}
