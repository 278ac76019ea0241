package server_test

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/verifier/tpmtest"
	"cocoon/verifier/wire"
)

type object = map[string]any

// at follows a JSON pointer (RFC 6901) into a document.
func at(doc any, pointer string) (any, bool) {
	for _, name := range strings.Split(strings.TrimPrefix(pointer, "#/"), "/") {
		m, ok := doc.(object)
		if !ok {
			return nil, false
		}
		if doc, ok = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(name)]; !ok {
			return nil, false
		}
	}
	return doc, true
}

// each calls f for every object in a document.
func each(doc any, f func(object)) {
	switch v := doc.(type) {
	case object:
		f(v)
		for _, e := range v {
			each(e, f)
		}
	case []any:
		for _, e := range v {
			each(e, f)
		}
	}
}

// fits holds a value against a schema, as far as the document's schemas go: it
// returns what is wrong.
func fits(doc object, schema object, v any, where string) (wrong []string) {
	if ref, ok := schema["$ref"].(string); ok {
		s, _ := at(doc, ref)
		next, ok := s.(object)
		if !ok {
			return []string{where + ": " + ref + " leads nowhere"}
		}
		return fits(doc, next, v, where)
	}
	switch t := schema["type"]; t {
	case "object":
		m, ok := v.(object)
		if !ok {
			return []string{fmt.Sprintf("%s is %T, want an object", where, v)}
		}
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if _, ok := m[name.(string)]; !ok {
				wrong = append(wrong, fmt.Sprintf("%s has no %s", where, name))
			}
		}
		props, _ := schema["properties"].(object)
		more, _ := schema["additionalProperties"].(object)
		for name, e := range m {
			s, ok := props[name].(object)
			if !ok {
				s = more
			}
			if s != nil {
				wrong = append(wrong, fits(doc, s, e, where+"."+name)...)
			} else if props != nil {
				wrong = append(wrong, where+" has "+name+", of which the document does not speak")
			}
		}
	case "array":
		list, ok := v.([]any)
		if !ok {
			return []string{fmt.Sprintf("%s is %T, want an array", where, v)}
		}
		items, _ := schema["items"].(object)
		for i, e := range list {
			wrong = append(wrong, fits(doc, items, e, fmt.Sprintf("%s[%d]", where, i))...)
		}
	case "string":
		s, ok := v.(string)
		if p, has := schema["pattern"].(string); !ok || has && !regexp.MustCompile(p).MatchString(s) {
			wrong = append(wrong, fmt.Sprintf("%s is %v, want a string of %v", where, v, schema))
		}
		if enum, has := schema["enum"].([]any); has && !slices.Contains(enum, any(s)) {
			wrong = append(wrong, fmt.Sprintf("%s is %q, want one of %v", where, s, enum))
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			wrong = append(wrong, fmt.Sprintf("%s is %T, want a boolean", where, v))
		}
	case "integer", "number":
		if _, ok := v.(float64); !ok {
			wrong = append(wrong, fmt.Sprintf("%s is %T, want a number", where, v))
		}
	case nil: // anything
	default:
		wrong = append(wrong, fmt.Sprintf("%s: the type %v is none of JSON Schema", where, t))
	}
	return wrong
}

// TestTheOpenAPIDocumentIsTheService fetches the document and calls every
// operation in it: each is served, and answers as the document says, what is good
// and what is not. Every method and every document of the service is in it.
func TestTheOpenAPIDocumentIsTheService(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), nil)
	get := func(method, path, body string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.http.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, b
	}
	resp, b := get(http.MethodGet, wire.PathOpenAPI, "")
	var doc object
	if err := json.Unmarshal(b, &doc); err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("status %d, %s: %v", resp.StatusCode, resp.Header.Get("Content-Type"), err)
	}
	if doc["openapi"] != "3.1.0" {
		t.Errorf("openapi is %v", doc["openapi"])
	}
	info, _ := doc["info"].(object)
	for _, name := range []string{"title", "version"} {
		if info[name] == "" || info[name] == nil {
			t.Errorf("info has no %s", name)
		}
	}
	each(doc, func(m object) {
		if ref, ok := m["$ref"].(string); ok {
			if _, there := at(doc, ref); !there {
				t.Errorf("%s leads nowhere", ref)
			}
		}
		if typ, ok := m["type"].(string); ok && !slices.Contains([]string{"object", "array", "string", "boolean", "integer", "number"}, typ) {
			t.Errorf("type %q", typ)
		}
	})
	paths, _ := doc["paths"].(object)
	ms := verifierv1.File_verifier_v1_verifier_proto.Services().Get(0)
	want := []string{wire.PathInfo, wire.PathJWKS, wire.PathOpenAPI, wire.PathChecks, wire.PathHealth, wire.PathReady, wire.PathMetrics, wire.PathMAA}
	for i := range ms.Methods().Len() {
		want = append(want, "/"+string(ms.FullName())+"/"+string(ms.Methods().Get(i).Name()))
	}
	for _, path := range want {
		if _, ok := paths[path]; !ok {
			t.Errorf("the document has no %s", path)
		}
	}
	// What a good request is, where an empty one is none.
	bodies := map[string]string{
		"Appraise":    s.evidence(t),
		"GetManifest": `{"sha256":"` + s.w.Manifests(t)[0].SHA256.String() + `"}`,
	}
	ids := map[string]bool{}
	for path, item := range paths {
		for method, op := range item.(object) {
			o := op.(object)
			id, _ := o["operationId"].(string)
			if id == "" || ids[id] {
				t.Errorf("%s %s: operationId %q is empty, or another's", method, path, id)
			}
			ids[id] = true
			if o["description"] == "" {
				t.Errorf("%s: no description", id)
			}
			body := bodies[id]
			if body == "" && method == "post" {
				body = "{}"
			}
			resp, b := get(strings.ToUpper(method), path, body)
			answers := o["responses"].(object)
			a, ok := answers[fmt.Sprint(resp.StatusCode)].(object)
			if !ok {
				a, ok = answers["default"].(object)
			}
			if resp.StatusCode == http.StatusNotFound && id != "GetVerdict" || resp.StatusCode == http.StatusMethodNotAllowed || !ok {
				t.Errorf("%s %s: status %d, of which the document does not speak: %s", method, path, resp.StatusCode, b)
				continue
			}
			if bodies[id] != "" && resp.StatusCode != http.StatusOK {
				t.Errorf("%s: status %d: %s", id, resp.StatusCode, b)
			}
			typ, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
			content, _ := a["content"].(object)[typ].(object)
			if err != nil || content == nil {
				t.Errorf("%s: an answer of type %q, the document has %v", id, typ, a["content"])
				continue
			}
			if typ == "text/plain" {
				continue
			}
			var v any
			if err := json.Unmarshal(b, &v); err != nil {
				t.Errorf("%s: %v", id, err)
				continue
			}
			for _, wrong := range fits(doc, content["schema"].(object), v, id) {
				t.Error(wrong)
			}
		}
	}
}
