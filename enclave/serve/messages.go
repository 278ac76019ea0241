package serve

import (
	"encoding/json"
	"fmt"
)

// message is one message of a chat. Only text goes to the engine: images and
// files would name places that an engine then reads.
type message struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content,omitempty"` // a string or text parts
	Name       string          `json:"name,omitempty"`
	Refusal    string          `json:"refusal,omitempty"`
	ToolCalls  []toolCall      `json:"tool_calls,omitempty"`
	ToolCallID string          `json:"tool_call_id,omitempty"`
}

type part struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type toolCall struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

type tool struct {
	Type     string       `json:"type"`
	Function toolFunction `json:"function"`
}

type toolFunction struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"` // JSON schema
	Strict      *bool           `json:"strict,omitempty"`
}

func messages(raw json.RawMessage) (json.RawMessage, error) {
	var list []message
	if err := strict(raw, &list); err != nil {
		return nil, err
	}
	if len(list) == 0 || len(list) > maxMessages {
		return nil, fmt.Errorf("want 1 to %d messages", maxMessages)
	}
	for i := range list {
		if err := list[i].check(); err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
	}
	return json.Marshal(list)
}

func (m *message) check() error {
	switch m.Role {
	case "system", "developer", "user", "assistant", "tool":
	default:
		return fmt.Errorf("role %q is unknown", clip(m.Role))
	}
	for _, c := range m.ToolCalls {
		if c.Type != "function" {
			return fmt.Errorf("tool call type %q is unknown", clip(c.Type))
		}
	}
	if len(m.Content) == 0 || isNull(m.Content) {
		if len(m.ToolCalls) == 0 {
			return fmt.Errorf("content is required")
		}
		m.Content = nil
		return nil
	}
	var text string
	if json.Unmarshal(m.Content, &text) == nil {
		return nil
	}
	var parts []part
	if err := strict(m.Content, &parts); err != nil {
		return fmt.Errorf("want a string or text parts: %w", err)
	}
	for _, p := range parts {
		if p.Type != "text" {
			return fmt.Errorf("content part type %q is not supported", clip(p.Type))
		}
	}
	return nil
}

func tools(raw json.RawMessage) (json.RawMessage, error) {
	var list []tool
	if err := strict(raw, &list); err != nil {
		return nil, err
	}
	if len(list) > maxTools {
		return nil, fmt.Errorf("want at most %d tools", maxTools)
	}
	for i, t := range list {
		if t.Type != "function" || t.Function.Name == "" {
			return nil, fmt.Errorf("tool %d: want a function with a name", i)
		}
	}
	return json.Marshal(list)
}

func toolChoice(raw json.RawMessage) (json.RawMessage, error) {
	if kept, err := oneOf("none", "auto", "required")(raw); err == nil {
		return kept, nil
	}
	var v struct {
		Type     string `json:"type"`
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if err := strict(raw, &v); err != nil || v.Type != "function" {
		return nil, fmt.Errorf("want none, auto, required or a function")
	}
	return json.Marshal(v)
}

func responseFormat(raw json.RawMessage) (json.RawMessage, error) {
	var v struct {
		Type       string `json:"type"`
		JSONSchema *struct {
			Name        string          `json:"name,omitempty"`
			Description string          `json:"description,omitempty"`
			Strict      *bool           `json:"strict,omitempty"`
			Schema      json.RawMessage `json:"schema,omitempty"`
		} `json:"json_schema,omitempty"`
	}
	if err := strict(raw, &v); err != nil {
		return nil, err
	}
	switch {
	case v.Type == "text" && v.JSONSchema == nil, v.Type == "json_object" && v.JSONSchema == nil, v.Type == "json_schema" && v.JSONSchema != nil:
		return json.Marshal(v)
	}
	return nil, fmt.Errorf("want text, json_object or json_schema")
}
