package kube

import (
	"context"
	"encoding/json"
	"fmt"
)

// MayGet reports whether a token is one of the cluster, and whether its user may get a path of a server that is not the
// API server (TokenReview and SubjectAccessReview).
func (c *Client) MayGet(ctx context.Context, token, path string) (known, allowed bool, err error) {
	var user struct {
		Status struct {
			Authenticated bool `json:"authenticated"`
			User          struct {
				Username string              `json:"username"`
				UID      string              `json:"uid,omitempty"`
				Groups   []string            `json:"groups,omitempty"`
				Extra    map[string][]string `json:"extra,omitempty"`
			} `json:"user"`
		} `json:"status"`
	}
	err = c.review(ctx, "authentication.k8s.io", "TokenReview", "tokenreviews", map[string]any{"token": token}, &user)
	if err != nil || !user.Status.Authenticated {
		return false, false, err
	}
	var access struct {
		Status struct {
			Allowed bool `json:"allowed"`
		} `json:"status"`
	}
	u := user.Status.User
	err = c.review(ctx, "authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", map[string]any{
		"user": u.Username, "uid": u.UID, "groups": u.Groups, "extra": u.Extra,
		"nonResourceAttributes": map[string]string{"verb": "get", "path": path},
	}, &access)
	return true, access.Status.Allowed, err
}

// review creates an object that the API server only answers.
func (c *Client) review(ctx context.Context, group, kind, resource string, spec map[string]any, answer any) error {
	body, err := json.Marshal(map[string]any{"apiVersion": group + "/v1", "kind": kind, "spec": spec})
	if err != nil {
		return fmt.Errorf("encode %s: %w", kind, err)
	}
	r := c.core.Post().AbsPath("/apis/"+group+"/v1/"+resource).SetHeader("Content-Type", "application/json").
		Body(body).MaxRetries(0)
	if err := do(ctx, r, answer, reviewTimeout); err != nil {
		return fmt.Errorf("create %s: %w", kind, lookupError(target{verb: "create", group: group, resource: resource}, err))
	}
	return nil
}
