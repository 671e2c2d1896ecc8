//! From the keywords of one schema to checks.

use super::document::Kind;
use super::number::Number;
use super::schema::{Check, Compiler, Draft, Enum, Items, Members, Not, Sized, type_bit};
use lovage_core::text::one_line;

/// The checks of the schema at a node, cheap ones first, those that look back last.
pub fn checks(compiler: &mut Compiler<'_>, at: u32) -> Result<Vec<Check>, Not> {
    Keywords { compiler, at, checks: Vec::new(), last: Vec::new() }.read()
}

struct Keywords<'c, 'b> {
    compiler: &'c mut Compiler<'b>,
    /// The schema.
    at: u32,
    checks: Vec<Check>,
    last: Vec<Check>,
}

impl Keywords<'_, '_> {
    fn read(mut self) -> Result<Vec<Check>, Not> {
        let members: Vec<u32> = self.compiler.document.children(self.at).collect();
        for member in members {
            let keyword = self.compiler.document.name(member).to_owned();
            self.identity(&keyword, member)?;
            self.value(&keyword, member)?;
            self.applicator(&keyword, member)?;
        }
        self.members()?;
        self.items()?;
        self.contains()?;
        self.condition();
        self.checks.append(&mut self.last);
        // Older drafts ignore all that stands beside a reference.
        if self.compiler.draft <= Draft::D7
            && let Some(at) =
                self.checks.iter().position(|check| matches!(check, Check::Reference(_)))
        {
            return Ok(vec![self.checks.swap_remove(at)]);
        }
        Ok(self.checks)
    }

    fn kind(&self, at: u32) -> Kind {
        self.compiler.document.kind(at)
    }

    fn get(&self, keyword: &str) -> Option<u32> {
        self.compiler.document.member(self.at, keyword)
    }

    fn fault<T>(&self, at: u32, reason: &str) -> Result<T, Not> {
        Err(self.compiler.fault(at, reason))
    }

    fn text(&self, at: u32) -> Result<String, Not> {
        match self.compiler.document.string(at) {
            Some(text) => Ok(text.to_owned()),
            None => self.fault(at, "is no string"),
        }
    }

    fn number(&self, at: u32) -> Result<Number, Not> {
        match self.kind(at) {
            Kind::Number(number) => Ok(number),
            _ => self.fault(at, "is no number"),
        }
    }

    fn count(&self, at: u32) -> Result<u64, Not> {
        match self.number(at)?.count() {
            Some(count) => Ok(count),
            None => self.fault(at, "is no integer from 0 on"),
        }
    }

    fn elements(&self, at: u32) -> Result<Vec<u32>, Not> {
        match self.kind(at) {
            Kind::Array(_) => Ok(self.compiler.document.children(at).collect()),
            _ => self.fault(at, "is no array"),
        }
    }

    fn entries(&self, at: u32) -> Result<Vec<(Box<str>, u32)>, Not> {
        let document = &self.compiler.document;
        match self.kind(at) {
            Kind::Object(_) => Ok(document
                .children(at)
                .map(|member| (document.name(member).into(), member))
                .collect()),
            _ => self.fault(at, "is no object"),
        }
    }

    fn texts(&self, at: u32) -> Result<Box<[Box<str>]>, Not> {
        self.elements(at)?.into_iter().map(|it| self.text(it).map(Into::into)).collect()
    }

    fn schema(&mut self, at: u32) -> u32 {
        self.compiler.number(at)
    }

    fn schemas(&mut self, at: u32) -> Result<Box<[u32]>, Not> {
        let elements = self.elements(at)?;
        if elements.is_empty() {
            return self.fault(at, "is empty");
        }
        Ok(elements.into_iter().map(|it| self.schema(it)).collect())
    }

    /// Keywords that say what a schema is called, and references.
    fn identity(&mut self, keyword: &str, at: u32) -> Result<(), Not> {
        let not =
            |reason: String| if self.compiler.whole { Err(Not::Checked(reason)) } else { Ok(()) };
        match keyword {
            "$ref" => {
                let target = self.text(at)?;
                self.reference(&target)
            }
            "$dynamicRef" | "$recursiveRef" => not(format!("it has a `{keyword}`")),
            // It changes what references mean.
            "$id" if self.at != 0 => not("it has an `$id` within".to_owned()),
            "$defs" | "definitions" => {
                // When checks are made, what is not referred to is left alone.
                let entries = self.entries(at)?;
                if !self.compiler.whole {
                    for (_, schema) in entries {
                        self.schema(schema);
                    }
                }
                Ok(())
            }
            "$id" | "$schema" | "$comment" | "$anchor" | "title" | "description" | "format" => {
                self.text(at).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    fn reference(&mut self, target: &str) -> Result<(), Not> {
        let shown = one_line(target, 200);
        let Some(fragment) = target.strip_prefix('#') else {
            return if self.compiler.whole {
                Err(Not::Wrong(format!(
                    "refers to `{shown}`: a schema may refer to its own parts only (`#/$defs/NAME`)"
                )))
            } else {
                Ok(())
            };
        };
        if !self.compiler.whole {
            return Ok(());
        }
        if !fragment.is_empty() && !fragment.starts_with('/') {
            return Err(Not::Checked(format!("it refers to an anchor, `{shown}`")));
        }
        // As it is in an URI: `%25` is a percent sign.
        if fragment.contains('%') {
            return Err(Not::Checked(format!("it has a reference with an escape, `{shown}`")));
        }
        let Some(found) = self.compiler.document.at(fragment) else {
            return Err(Not::Wrong(format!("refers to `{shown}`, which is not there")));
        };
        let schema = self.schema(found);
        self.checks.push(Check::Reference(schema));
        Ok(())
    }

    /// Keywords about the value as it stands.
    fn value(&mut self, keyword: &str, at: u32) -> Result<(), Not> {
        let check = match keyword {
            "type" => {
                let one = |at: u32| -> Result<u8, Not> {
                    match type_bit(&self.text(at)?) {
                        Some(bit) => Ok(bit),
                        None => self.fault(at, "is no type of JSON"),
                    }
                };
                Check::Type(match self.kind(at) {
                    Kind::Array(0) => return self.fault(at, "is empty"),
                    Kind::Array(_) => {
                        let bits = self.elements(at)?.into_iter().map(one);
                        bits.collect::<Result<Vec<_>, _>>()?
                            .into_iter()
                            .fold(0, |all, bit| all | bit)
                    }
                    _ => one(at)?,
                })
            }
            "const" => Check::Const(at),
            "enum" => Check::Enum(Box::new(self.values(at)?)),
            "minimum" => Check::Compare("minimum", self.number(at)?),
            "maximum" => Check::Compare("maximum", self.number(at)?),
            "exclusiveMinimum" => Check::Compare("exclusiveMinimum", self.number(at)?),
            "exclusiveMaximum" => Check::Compare("exclusiveMaximum", self.number(at)?),
            "multipleOf" => {
                let number = self.number(at)?;
                if number.compare(Number::Unsigned(0)).is_le() {
                    return self.fault(at, "is not greater than 0");
                }
                Check::MultipleOf(number)
            }
            "minLength" => Check::Size("minLength", Sized::Text, false, self.count(at)?),
            "maxLength" => Check::Size("maxLength", Sized::Text, true, self.count(at)?),
            "minItems" => Check::Size("minItems", Sized::Array, false, self.count(at)?),
            "maxItems" => Check::Size("maxItems", Sized::Array, true, self.count(at)?),
            "minProperties" => Check::Size("minProperties", Sized::Object, false, self.count(at)?),
            "maxProperties" => Check::Size("maxProperties", Sized::Object, true, self.count(at)?),
            "pattern" => {
                let text = self.text(at)?;
                if !self.compiler.whole {
                    return Ok(());
                }
                Check::Pattern(Box::new(self.compiler.pattern(&text)?))
            }
            "uniqueItems" => match self.kind(at) {
                Kind::Bool(true) => Check::Unique,
                Kind::Bool(false) => return Ok(()),
                _ => return self.fault(at, "is no boolean"),
            },
            "required" => Check::Required(self.texts(at)?),
            _ => return Ok(()),
        };
        self.checks.push(check);
        Ok(())
    }

    fn values(&self, at: u32) -> Result<Enum, Not> {
        let mut values = Enum::default();
        for element in self.elements(at)? {
            match self.kind(element) {
                Kind::Null => values.null = true,
                Kind::Bool(false) => values.no = true,
                Kind::Bool(true) => values.yes = true,
                Kind::Number(number) => {
                    values.numbers.insert(number.key());
                }
                Kind::Text(text) => {
                    values.texts.insert(self.compiler.document.text(text).into());
                }
                Kind::Array(_) | Kind::Object(_) => values.others.push(element),
            }
        }
        Ok(values)
    }

    /// Keywords that hold a value to other schemas.
    fn applicator(&mut self, keyword: &str, at: u32) -> Result<(), Not> {
        let since_2019 = self.compiler.draft >= Draft::D2019;
        let check = match keyword {
            "allOf" => Check::All(self.schemas(at)?),
            "anyOf" => Check::Any(self.schemas(at)?),
            "oneOf" => Check::One(self.schemas(at)?),
            "not" => Check::Not(self.schema(at)),
            "propertyNames" => Check::Names(self.schema(at)),
            "dependentSchemas" if since_2019 => {
                let entries = self.entries(at)?;
                let schemas = entries.into_iter().map(|(name, at)| (name, self.schema(at)));
                Check::DependentSchemas("dependentSchemas", schemas.collect())
            }
            "dependentRequired" if since_2019 => {
                let entries = self.entries(at)?.into_iter();
                let lists = entries.map(|(name, at)| Ok((name, self.texts(at)?)));
                Check::DependentRequired("dependentRequired", lists.collect::<Result<_, Not>>()?)
            }
            "dependencies" => {
                let (mut lists, mut schemas) = (Vec::new(), Vec::new());
                for (name, at) in self.entries(at)? {
                    if matches!(self.kind(at), Kind::Array(_)) {
                        lists.push((name, self.texts(at)?));
                    } else {
                        schemas.push((name, self.schema(at)));
                    }
                }
                self.checks.push(Check::DependentRequired("dependencies", lists.into()));
                Check::DependentSchemas("dependencies", schemas.into())
            }
            "unevaluatedItems" if since_2019 => {
                let schema = self.schema(at);
                self.last.push(Check::UnevaluatedItems(schema));
                return Ok(());
            }
            "unevaluatedProperties" if since_2019 => {
                let schema = self.schema(at);
                self.last.push(Check::UnevaluatedMembers(schema));
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.checks.push(check);
        Ok(())
    }

    /// `properties`, `patternProperties` and `additionalProperties`, which go by each other.
    fn members(&mut self) -> Result<(), Not> {
        let mut members = Members::default();
        let (named, patterns) = (self.get("properties"), self.get("patternProperties"));
        let others = self.get("additionalProperties");
        if named.or(patterns).or(others).is_none() {
            return Ok(());
        }
        for (name, at) in named.map(|at| self.entries(at)).transpose()?.unwrap_or_default() {
            members.named.insert(name, self.schema(at));
        }
        for (pattern, at) in patterns.map(|at| self.entries(at)).transpose()?.unwrap_or_default() {
            let schema = self.schema(at);
            if self.compiler.whole {
                members.patterns.push((self.compiler.pattern(&pattern)?, schema));
            }
        }
        members.others = others.map(|at| self.schema(at));
        self.checks.push(Check::Members(Box::new(members)));
        Ok(())
    }

    /// The keywords about elements by their place, which go by other names in older drafts.
    fn items(&mut self) -> Result<(), Not> {
        let (first, first_keyword, rest, rest_keyword) = match self.get("items") {
            Some(at)
                if self.compiler.draft < Draft::D2020
                    && matches!(self.kind(at), Kind::Array(_)) =>
            {
                (Some(at), "items", self.get("additionalItems"), "additionalItems")
            }
            items if self.compiler.draft == Draft::D2020 => {
                (self.get("prefixItems"), "prefixItems", items, "items")
            }
            items => (None, "items", items, "items"),
        };
        if first.or(rest).is_none() {
            return Ok(());
        }
        let first = first.map(|at| self.elements(at)).transpose()?.unwrap_or_default();
        let first = first.into_iter().map(|at| self.schema(at)).collect();
        let rest = rest.map(|at| self.schema(at));
        self.checks.push(Check::Items(Box::new(Items {
            first,
            first_keyword,
            rest,
            rest_keyword,
        })));
        Ok(())
    }

    fn contains(&mut self) -> Result<(), Not> {
        let bound = |keyword| self.get(keyword).map(|at| self.count(at)).transpose();
        let (least, most) = (bound("minContains")?, bound("maxContains")?);
        let Some(at) = self.get("contains") else { return Ok(()) };
        let schema = self.schema(at);
        let (least, most) =
            if self.compiler.draft >= Draft::D2019 { (least, most) } else { (None, None) };
        self.checks.push(Check::Contains { schema, least: least.unwrap_or(1), most });
        Ok(())
    }

    fn condition(&mut self) {
        let [condition, then, otherwise] =
            ["if", "then", "else"].map(|keyword| self.get(keyword).map(|at| self.schema(at)));
        if let Some(condition) = condition
            && self.compiler.draft >= Draft::D7
        {
            self.checks.push(Check::If { condition, then, otherwise });
        }
    }
}
