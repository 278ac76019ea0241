package spec

import (
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// fromYAML turns a YAML document into JSON, which is then parsed as strictly
// as any: unknown and duplicate keys are refused, and so are a second
// document and what JSON has not, such as keys that are numbers.
func fromYAML(b []byte) ([]byte, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), MaxSize)
	}
	var v any
	if err := yaml.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	return out, nil
}
