package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/spf13/cobra"

	"cocoon/client"
	"cocoon/internal/fault"
)

// chatResult is the output of chat --json.
type chatResult struct {
	Answer     string `json:"answer"`
	Model      string `json:"model"`
	ReceiptKey string `json:"receipt_key"`
	TrustClass string `json:"evidence_type"`
	Finish     string `json:"finish_reason"`
}

func newChatCmd() *cobra.Command {
	var f workerFlags
	var asJSON bool
	var maxTokens int64
	cmd := &cobra.Command{
		Use:   "chat --gateway ADDR --policy FILE --manifest FILE PROMPT",
		Short: "verify a worker, then send it one prompt",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.connect(slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			peer, err := c.Connect(cmd.Context())
			if err != nil {
				return err
			}
			out := io.Discard
			if !asJSON {
				fmt.Fprintf(cmd.ErrOrStderr(), "worker %s verified here: %s\n", peer.Evidence.Claims.ReceiptKey, classNotice(peer.Evidence.CPU.Type))
				out = cmd.OutOrStdout()
			}
			res, err := chat(cmd.Context(), c, peer, args[0], maxTokens, out)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(res)
			}
			fmt.Fprintln(cmd.OutOrStdout())
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document at the end instead of streaming")
	cmd.Flags().Int64Var(&maxTokens, "max-tokens", 256, "longest answer, in tokens")
	return cmd
}

// classNotice says in words what kind of evidence a worker showed.
func classNotice(cpu string) string {
	if cpu == "tpm" {
		return "trust class vtpm: measured boot, NOT confidentiality; for development only"
	}
	return "evidence type " + cpu
}

// chat sends one prompt with a stock OpenAI client through a proxy of its
// own, streaming the answer to out.
func chat(ctx context.Context, c *client.Client, peer *client.Peer, prompt string, maxTokens int64, out io.Writer) (*chatResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addr := make(chan string, 1)
	failed := make(chan error, 1)
	go func() {
		failed <- serveProxy(ctx, c, "127.0.0.1:0", slog.New(slog.DiscardHandler), func(a string) { addr <- a })
	}()
	var base string
	select {
	case a := <-addr:
		base = "http://" + a + "/v1"
	case err := <-failed:
		return nil, err
	}
	ai := openai.NewClient(option.WithBaseURL(base), option.WithAPIKey("none"), option.WithMaxRetries(0))
	model := peer.Evidence.Claims.Model.Name
	stream := ai.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
		Model:       model,
		Messages:    []openai.ChatCompletionMessageParamUnion{openai.UserMessage(prompt)},
		MaxTokens:   openai.Int(maxTokens),
		Temperature: openai.Float(0),
	})
	defer stream.Close()
	var answer strings.Builder
	res := &chatResult{Model: model, ReceiptKey: peer.Evidence.Claims.ReceiptKey.String(), TrustClass: peer.Evidence.CPU.Type}
	for stream.Next() {
		for _, ch := range stream.Current().Choices {
			answer.WriteString(ch.Delta.Content)
			if ch.FinishReason != "" {
				res.Finish = ch.FinishReason
			}
			if _, err := io.WriteString(out, ch.Delta.Content); err != nil {
				return nil, fmt.Errorf("printing answer: %w", err)
			}
		}
	}
	if err := stream.Err(); err != nil {
		return nil, fault.New(fault.ExitNetwork, "chat.request", "see the message; cocoon proxy shows more", "chatting: %w", err)
	}
	res.Answer = answer.String()
	return res, nil
}
