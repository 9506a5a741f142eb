// Package deploy has only tests. They render every manifest of deploy/, check what it may do on a node, and apply it to
// a real API server.
package deploy
