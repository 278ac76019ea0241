package manifest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"cocoon/internal/jcs"
)

// Difference is one field in which two manifests differ.
type Difference struct {
	Field string `json:"field"`         // path: "tpm.firmwares[0].pcrs.4"; entries of lists by their name
	Old   string `json:"old,omitempty"` // JSON, "" where there is none
	New   string `json:"new,omitempty"`
}

// Diff compares two manifests, field by field.
func Diff(x, y *Manifest) ([]Difference, error) {
	var flat [2]map[string]string
	for i, m := range []*Manifest{x, y} {
		b, err := jcs.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("comparing manifests: %w", err)
		}
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			return nil, fmt.Errorf("comparing manifests: %w", err)
		}
		flat[i] = map[string]string{}
		if err := flatten("", v, flat[i]); err != nil {
			return nil, err
		}
	}
	out := []Difference{}
	for field, old := range flat[0] {
		if now := flat[1][field]; now != old {
			out = append(out, Difference{field, old, now})
		}
	}
	for field, now := range flat[1] {
		if _, ok := flat[0][field]; !ok {
			out = append(out, Difference{field, "", now})
		}
	}
	slices.SortFunc(out, func(a, b Difference) int { return strings.Compare(a.Field, b.Field) })
	return out, nil
}

func flatten(path string, v any, out map[string]string) error {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if err := flatten(strings.TrimPrefix(path+"."+k, "."), e, out); err != nil {
				return err
			}
		}
		return nil
	case []any:
		for i, e := range v {
			key := fmt.Sprint(i)
			// A file or firmware has a name of its own: one that is added in
			// front does not make all others differ.
			if m, ok := e.(map[string]any); ok && !strings.HasSuffix(path, "events") {
				if s, ok := m["name"].(string); ok {
					key = s
				}
			}
			if err := flatten(path+"["+key+"]", e, out); err != nil {
				return err
			}
		}
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("comparing manifests: %w", err)
	}
	out[path] = string(b)
	return nil
}
