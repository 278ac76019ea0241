package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

type object = map[string]any

// openAPI returns an OpenAPI 3.1 document of the services in a file, as the
// Connect protocol serves them: POST with a JSON message at
// /package.Service/Method (https://connectrpc.com/docs/protocol), names and
// types as ProtoJSON has them.
func openAPI(file protoreflect.FileDescriptor, extra func(paths object)) ([]byte, error) {
	paths, schemas := object{}, object{}
	for i := range file.Services().Len() {
		s := file.Services().Get(i)
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			name := fmt.Sprintf("/%s/%s", s.FullName(), m.Name())
			ok := object{"description": "the answer", "content": jsonOf(ref(m.Output()))}
			if m.IsStreamingServer() { // enveloped: https://connectrpc.com/docs/protocol/#streaming-rpcs
				ok = object{"description": "the answers, each in an envelope", "content": object{"application/connect+json": object{"schema": ref(m.Output())}}}
			}
			paths[name] = object{"post": object{
				"operationId": string(m.Name()), "description": comment(m),
				"requestBody": object{"required": true, "content": jsonOf(ref(m.Input()))},
				"responses":   object{"200": ok, "default": object{"description": "nothing was decided", "content": jsonOf(object{"$ref": "#/components/schemas/connect.Error"})}},
			}}
		}
	}
	extra(paths)
	for i := range file.Messages().Len() {
		m := file.Messages().Get(i)
		props := object{}
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			p := schema(f)
			if c := comment(f); c != "" {
				p["description"] = c
			}
			props[f.JSONName()] = p
		}
		s := object{"type": "object", "properties": props}
		if c := comment(m); c != "" {
			s["description"] = c
		}
		schemas[string(m.FullName())] = s
	}
	for i := range file.Enums().Len() {
		e := file.Enums().Get(i)
		var names []string
		for j := range e.Values().Len() {
			names = append(names, string(e.Values().Get(j).Name()))
		}
		schemas[string(e.FullName())] = object{"type": "string", "enum": names, "description": comment(e)}
	}
	text := object{"type": "string"}
	schemas["connect.Error"] = object{"type": "object", "description": "A Connect error. Its details hold one " + string(file.Package()) + ".Faults: every failure with its stable code.",
		"properties": object{"code": text, "message": text, "details": object{"type": "array", "items": object{"type": "object",
			"properties": object{"type": text, "value": text, "debug": object{}}}}}}
	doc := object{
		"openapi":    "3.1.0",
		"info":       object{"title": string(file.Package()), "version": "1", "description": comment(file.Services().Get(0))},
		"paths":      paths,
		"components": object{"schemas": schemas},
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(doc)
	return b.Bytes(), err
}

// attestTDX is the one request beside the methods that decides anything
// (docs/verifier-api.md, Azure's call shape).
func attestTDX() object {
	text := func(what string) object { return object{"type": "string", "description": what} }
	data := func(what string) object {
		return object{"type": "object", "description": what, "required": []string{"data", "dataType"},
			"properties": object{"data": text("base64url"), "dataType": object{"type": "string", "enum": []string{"Binary", "JSON"}}}}
	}
	return object{
		"operationId": "AttestTdxVm",
		"description": "Appraisal of a TD by its quote, in the call shape of Azure Attestation. The token says what of the platform was checked; it is no verdict.",
		"requestBody": object{"required": true, "content": jsonOf(object{"type": "object", "required": []string{"quote", "runtimeData"}, "properties": object{
			"quote":        text("base64url"),
			"runtimeData":  data("The quote's report data is its SHA-256 and zeros, or its SHA-512. It carries a challenge of PURPOSE_ATTEST_TDX: in hex as member nonce of JSON, or as the first 32 bytes."),
			"initTimeData": data("MRCONFIGID is its SHA-384, or its SHA-256 and zeros."),
			"nonce":        text("repeated in the token, and bound to nothing"),
			"collateral":   object{"type": "object", "description": "as in evidence"},
		}})},
		"responses": object{
			"200":     object{"description": "the answer", "content": jsonOf(object{"type": "object", "properties": object{"token": text("a signed JWT")}})},
			"default": object{"description": "refused, or nothing was decided (RFC 9457)", "content": object{"application/problem+json": object{"schema": object{"type": "object"}}}},
		},
	}
}

// hostMetrics is what Prometheus asks for.
func hostMetrics() object {
	return object{"operationId": "Metrics", "description": "VMs by phase, restarts and requests, for Prometheus.",
		"responses": object{"200": object{"description": "the metrics", "content": object{"text/plain": object{"schema": object{"type": "string"}}}}}}
}

func jsonOf(schema object) object {
	return object{"application/json": object{"schema": schema}}
}

func ref(d protoreflect.Descriptor) object {
	return object{"$ref": "#/components/schemas/" + string(d.FullName())}
}

// schema returns the ProtoJSON form of a field
// (https://protobuf.dev/programming-guides/json).
func schema(f protoreflect.FieldDescriptor) object {
	switch {
	case f.IsMap():
		return object{"type": "object", "additionalProperties": single(f.MapValue())}
	case f.IsList():
		return object{"type": "array", "items": single(f)}
	}
	return single(f)
}

func single(f protoreflect.FieldDescriptor) object {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return object{"type": "boolean"}
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return object{"type": "number"}
	case protoreflect.BytesKind:
		return object{"type": "string", "contentEncoding": "base64"}
	case protoreflect.Int32Kind, protoreflect.Uint32Kind:
		return object{"type": "integer"}
	case protoreflect.Int64Kind, protoreflect.Uint64Kind: // texts in ProtoJSON
		return object{"type": "string", "pattern": "^-?[0-9]+$"}
	case protoreflect.EnumKind:
		return ref(f.Enum())
	case protoreflect.MessageKind:
		if f.Message().FullName() == "google.protobuf.Timestamp" {
			return object{"type": "string", "format": "date-time"}
		}
		return ref(f.Message())
	}
	return object{"type": "string"}
}

// comment returns the comment above a descriptor on one line.
func comment(d protoreflect.Descriptor) string {
	return strings.Join(strings.Fields(d.ParentFile().SourceLocations().ByDescriptor(d).LeadingComments), " ")
}
