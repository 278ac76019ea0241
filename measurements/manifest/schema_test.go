package manifest_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
)

var update = flag.Bool("update", false, "write docs/manifest.schema.json anew")

const schemaFile = "../../docs/manifest.schema.json"

// schemaOf describes a Go type as package json writes it, closed: the reader
// refuses unknown keys.
func schemaOf(t reflect.Type, defs map[string]any) any {
	hex := func(n int) any { return map[string]any{"type": "string", "pattern": "^[0-9a-f]{" + itoa(n) + "}$"} }
	switch t {
	case reflect.TypeFor[digest.SHA256]():
		return hex(64)
	case reflect.TypeFor[digest.SHA384]():
		return hex(96)
	case reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "pattern": `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem(), defs)
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Uint64, reflect.Uint32, reflect.Uint16, reflect.Uint8:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem(), defs)}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem(), defs)}
	case reflect.Struct:
		if _, ok := defs[t.Name()]; !ok {
			defs[t.Name()] = nil // breaks cycles
			props, required := map[string]any{}, []string{}
			for _, f := range reflect.VisibleFields(t) {
				name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
				if f.Anonymous || name == "" {
					continue
				}
				props[name] = schemaOf(f.Type, defs)
				if opts != "omitempty" {
					required = append(required, name)
				}
			}
			slices.Sort(required)
			defs[t.Name()] = map[string]any{"type": "object", "properties": props, "required": required, "additionalProperties": false}
		}
		return map[string]any{"$ref": "#/$defs/" + t.Name()}
	}
	panic("no schema for " + t.String())
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// schema describes the DSSE payload.
func schema(t *testing.T) []byte {
	t.Helper()
	defs := map[string]any{}
	predicate := schemaOf(reflect.TypeFor[manifest.Manifest](), defs)
	defs["Manifest"].(map[string]any)["properties"].(map[string]any)["format"] = map[string]any{"const": manifest.Format}
	object := func(props map[string]any, required ...string) any {
		return map[string]any{"type": "object", "properties": props, "required": required, "additionalProperties": false}
	}
	hash := schemaOf(reflect.TypeFor[digest.SHA256](), defs)
	doc := object(map[string]any{
		"_type":         map[string]any{"const": "https://in-toto.io/Statement/v1"},
		"subject":       map[string]any{"type": "array", "items": object(map[string]any{"name": map[string]any{"type": "string"}, "digest": object(map[string]any{"sha256": hash}, "sha256")}, "digest", "name")},
		"predicateType": map[string]any{"const": manifest.PredicateType},
		"predicate":     predicate,
	}, "_type", "predicate", "predicateType", "subject").(map[string]any)
	doc["$schema"], doc["$id"], doc["$defs"] = "https://json-schema.org/draft/2020-12/schema", manifest.PredicateType+":schema", defs
	doc["title"] = "Payload of a Cocoon manifest: an in-toto Statement v1 in RFC 8785 form"
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestThePublishedSchemaIsThatOfTheTypes(t *testing.T) {
	want := schema(t)
	if *update {
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("docs/manifest.schema.json is old; run go test ./measurements/manifest -update (-types +file):\n%s", diff)
	}
}

func TestTheSchemaTakesManifestsAndNothingElse(t *testing.T) {
	c := jsonschema.NewCompiler()
	s, err := c.Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := fixture(t).Payload()
	if err != nil {
		t.Fatal(err)
	}
	read := func(b string) any {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if err := s.Validate(read(string(payload))); err != nil {
		t.Errorf("a manifest is refused: %v", err)
	}
	for name, change := range map[string][2]string{
		"another format":    {`"format":2`, `"format":3`},
		"a missing part":    {`"sunset":"2027-01-01T00:00:00Z",`, ``},
		"an unknown key":    {`"sunset":`, `"sunrise":"","sunset":`},
		"a shortened hash":  {`"root_verity":"`, `"root_verity":"0`},
		"a number as text":  {`"version":1`, `"version":"1"`},
		"a local time":      {`T00:00:00Z`, `T00:00:00+01:00`},
		"another predicate": {manifest.PredicateType, "urn:other"},
	} {
		bad := strings.Replace(string(payload), change[0], change[1], 1)
		if bad == string(payload) {
			t.Fatalf("%s: the manifest has no %s", name, change[0])
		}
		if s.Validate(read(bad)) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
