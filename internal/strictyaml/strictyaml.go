// Package strictyaml reads configuration files. In comes one YAML document (1.2,
// and so JSON too) and a Go value with json tags; out comes the value, or an
// error that names the line or the key.
//
// Only what JSON can say is read, and types are exact: no anchors, aliases,
// merge keys, tags, nulls, numbers in other forms than JSON's, and no "yes" for
// true. Keys that the value does not have, or that come twice, are refused, and
// so is one that differs from the value's in case.
package strictyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	strictjson "sigs.k8s.io/json"
)

// maxDepth bounds nesting, maxNodes the number of keys and values.
const (
	maxDepth = 16
	maxNodes = 1 << 14
)

// Decode reads exactly one document of at most limit bytes into v.
func Decode(doc []byte, limit int, v any) error {
	if len(doc) > limit {
		return fmt.Errorf("decoding YAML: %d bytes, limit %d", len(doc), limit)
	}
	if !utf8.Valid(doc) {
		return errors.New("decoding YAML: it is not UTF-8")
	}
	dec := yaml.NewDecoder(bytes.NewReader(doc))
	var root, second yaml.Node
	if err := dec.Decode(&root); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("decoding YAML: it is empty")
		}
		return fmt.Errorf("decoding YAML: %w", err)
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return errors.New("decoding YAML: more than one document")
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 {
		return errors.New("decoding YAML: it has no value")
	}
	c := converter{left: maxNodes}
	if err := c.value(root.Content[0], 0); err != nil {
		return fmt.Errorf("decoding YAML: %w", err)
	}
	strict, err := strictjson.UnmarshalStrict(c.out.Bytes(), v)
	if err := errors.Join(append(strict, err)...); err != nil {
		return fmt.Errorf("decoding YAML: %w", err)
	}
	return nil
}

// converter writes nodes as JSON.
type converter struct {
	out  bytes.Buffer
	left int
}

func (c *converter) value(n *yaml.Node, depth int) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("line %d: "+format, append([]any{n.Line}, args...)...)
	}
	if c.left--; c.left < 0 {
		return bad("more than %d values", maxNodes)
	}
	if depth > maxDepth {
		return bad("nesting deeper than %d", maxDepth)
	}
	if n.Anchor != "" || n.Kind == yaml.AliasNode {
		return bad("anchors and aliases are not read")
	}
	if n.Style&yaml.TaggedStyle != 0 {
		return bad("tags are not read")
	}
	switch n.Kind {
	case yaml.MappingNode:
		return c.mapping(n, depth)
	case yaml.SequenceNode:
		c.out.WriteByte('[')
		for i, e := range n.Content {
			if i > 0 {
				c.out.WriteByte(',')
			}
			if err := c.value(e, depth+1); err != nil {
				return err
			}
		}
		c.out.WriteByte(']')
		return nil
	case yaml.ScalarNode:
		return c.scalar(n)
	}
	return bad("an unknown kind of value")
}

func (c *converter) mapping(n *yaml.Node, depth int) error {
	seen := map[string]bool{}
	c.out.WriteByte('{')
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str" || k.Style&yaml.TaggedStyle != 0 || k.Anchor != "" {
			return fmt.Errorf("line %d: key %.64q is no plain string", k.Line, k.Value)
		}
		if seen[k.Value] {
			return fmt.Errorf("line %d: duplicate key %.64q", k.Line, k.Value)
		}
		seen[k.Value] = true
		if i > 0 {
			c.out.WriteByte(',')
		}
		if err := c.text(k.Value); err != nil {
			return err
		}
		c.out.WriteByte(':')
		if err := c.value(n.Content[i+1], depth+1); err != nil {
			return err
		}
	}
	c.out.WriteByte('}')
	return nil
}

// scalar writes a scalar by its type in YAML's core schema.
func (c *converter) scalar(n *yaml.Node) error {
	switch tag := n.ShortTag(); tag {
	case "!!str", "!!timestamp": // a time is a string to whoever reads it
		return c.text(n.Value)
	case "!!bool":
		if n.Value != "true" && n.Value != "false" {
			return fmt.Errorf("line %d: %.32q: write true or false, or quote it", n.Line, n.Value)
		}
		c.out.WriteString(n.Value)
		return nil
	case "!!int", "!!float":
		if !json.Valid([]byte(n.Value)) {
			return fmt.Errorf("line %d: %.32q: write the number as in JSON, or quote it", n.Line, n.Value)
		}
		c.out.WriteString(n.Value)
		return nil
	case "!!null":
		return fmt.Errorf("line %d: a key without a value: leave it out", n.Line)
	default:
		return fmt.Errorf("line %d: type %s is not read", n.Line, tag)
	}
}

func (c *converter) text(s string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encoding string: %w", err)
	}
	c.out.Write(b)
	return nil
}
