package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/spf13/cobra"

	"cocoon/client"
	"cocoon/contracts/receipt"
	"cocoon/internal/fault"
)

// chatResult is the output of chat --json.
type chatResult struct {
	Answer     string `json:"answer"`
	Model      string `json:"model"`
	ReceiptKey string `json:"receipt_key"`
	TrustClass string `json:"evidence_type"`
	Finish     string `json:"finish_reason"`
	// FirstToken is when the first part of the answer arrived.
	FirstToken time.Time `json:"first_token_at"`
	// Cost is what the receipt says this and all answers before it of the job
	// cost, nanoton; Receipts counts them. Both are absent without a job.
	Cost     uint64 `json:"job_cost_nanoton,omitempty"`
	Receipts uint64 `json:"job_receipts,omitempty"`
	// Receipt is the enclave's signed receipt for this answer.
	Receipt *receipt.Signed `json:"receipt,omitempty"`
}

// settle adds what the payment says; a receipt that was not right is an error.
func (r *chatResult) settle(ctx context.Context, s *session) error {
	if s.payment == nil {
		return nil
	}
	if err := s.payment.Wait(ctx); err != nil {
		return err
	}
	if err := s.payment.Err(); err != nil {
		return err
	}
	last, v, err := s.payment.Last()
	if err != nil {
		return err
	}
	if last == nil || v == nil {
		return fault.New(fault.ExitRefused, "receipt.missing", "do not pay for this response; close the job", "settling the answer: no receipt was accepted")
	}
	r.Cost, r.Receipts, r.Receipt = uint64(v.Voucher.Amount), v.Voucher.ReceiptCount, last
	return nil
}

func newChatCmd() *cobra.Command {
	var f workerFlags
	var asJSON bool
	var maxTokens int64
	cmd := &cobra.Command{
		Use:   "chat --gateway ADDR --policy FILE --manifest FILE PROMPT",
		Short: "verify a worker, then send it one prompt",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			s, err := f.open(cmd.Context(), slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.close()) }()
			peer := s.client.Peer()
			if peer == nil {
				if peer, err = s.client.Connect(cmd.Context()); err != nil {
					return err
				}
			}
			out := io.Discard
			if !asJSON {
				fmt.Fprintf(cmd.ErrOrStderr(), "worker %s verified here: %s\n", peer.Evidence.Claims.ReceiptKey, classNotice(peer.Evidence.CPU.Type))
				out = cmd.OutOrStdout()
			}
			res, err := chat(cmd.Context(), s, peer, args[0], maxTokens, out)
			if err != nil {
				return err
			}
			if err := res.settle(cmd.Context(), s); err != nil {
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
func chat(ctx context.Context, s *session, peer *client.Peer, prompt string, maxTokens int64, out io.Writer) (*chatResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addr := make(chan string, 1)
	failed := make(chan error, 1)
	go func() {
		failed <- serveProxy(ctx, s, "127.0.0.1:0", slog.New(slog.DiscardHandler), func(a string) { addr <- a })
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
			if answer.Len() == 0 && ch.Delta.Content != "" {
				res.FirstToken = time.Now().UTC()
			}
			answer.WriteString(ch.Delta.Content)
			if ch.FinishReason != "" {
				res.Finish = ch.FinishReason
			}
			if _, err := io.WriteString(out, ch.Delta.Content); err != nil {
				return nil, fmt.Errorf("printing answer: %w", err)
			}
		}
	}
	if s.payment != nil && s.payment.Err() != nil {
		return nil, s.payment.Err()
	}
	if err := stream.Err(); err != nil {
		return nil, fault.New(fault.ExitNetwork, "chat.request", "see the message; cocoon proxy shows more", "chatting: %w", err)
	}
	res.Answer = answer.String()
	return res, nil
}
